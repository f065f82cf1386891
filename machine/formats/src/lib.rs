//! Files: safetensors, manifests and atomic writes; bytes become named tensors, every length checked.
