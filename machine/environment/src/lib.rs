//! Where a model acts and is judged: the kata world, its tools, and the sandbox its code runs in.
