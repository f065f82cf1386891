//! Kernels: one folder each, with a contract, a scalar definition, and variants chosen at run time.
