//! The training loop: objectives, optimizer, checkpoints, report.
