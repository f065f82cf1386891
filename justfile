# Each line calls cargo or xtask; nothing here that cannot be typed by hand.

# The list of what can be done.
default:
    @just --list

# The program, as people run it: target/release/lateen.
build:
    cargo build --release --package lateen

# Everything that can be checked on a laptop: no network, no GPU, no Python.
test:
    cargo nextest run --workspace

# Layout, lints, and the rules of the house.
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    cargo xtask tidy

# Speed. The kernels' tests come first, and if they fail no figure is printed.
bench *ARGUMENTS:
    cargo xtask bench {{ARGUMENTS}}

# Our numbers against the references in fixtures/, in release.
parity:
    cargo xtask parity
