//! The closed vocabulary of operations a model is written in, and the executors that decide what running it means.
