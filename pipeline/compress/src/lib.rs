//! Compression: observe, plan, prune, quantize, write.
