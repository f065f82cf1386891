//! Low-rank adapters (LoRA; Hu et al. 2021): attached to any linear map, every expert's included, merged, and exchanged
//! with PEFT.
