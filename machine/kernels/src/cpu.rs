//! Which instruction sets this machine runs, found out once.

use std::sync::OnceLock;

/// The sets that kernels have variants for. Each later one implies what its variants also need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpu {
    /// AVX2 with FMA and F16C.
    pub avx2: bool,
    /// AVX-512 F, BW, VL and DQ, and everything of `avx2`.
    pub avx512: bool,
    pub avx512_vnni: bool,
    pub avx512_bf16: bool,
    /// AMX tiles of bf16, which the operating system has granted to this process; and everything of `avx512_bf16`.
    pub amx_bf16: bool,
}

impl Cpu {
    /// A machine with none of the sets.
    pub const SCALAR: Self =
        Self { avx2: false, avx512: false, avx512_vnni: false, avx512_bf16: false, amx_bf16: false };

    /// This machine. The first call asks the operating system for AMX.
    pub fn get() -> &'static Self {
        static CPU: OnceLock<Cpu> = OnceLock::new();
        CPU.get_or_init(detect)
    }

    /// The sets by name, for reports and for tests that say which variants must have run.
    pub fn names(&self) -> Vec<&'static str> {
        let sets = [
            (true, "scalar"),
            (self.avx2, "avx2"),
            (self.avx512, "avx512"),
            (self.avx512_vnni, "avx512_vnni"),
            (self.avx512_bf16, "avx512_bf16"),
            (self.amx_bf16, "amx_bf16"),
        ];
        sets.into_iter().filter(|(here, _)| *here).map(|(_, name)| name).collect()
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Cpu {
    Cpu::SCALAR
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Cpu {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
    let avx512 = avx2
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq");
    let avx512_bf16 = avx512 && is_x86_feature_detected!("avx512bf16");
    Cpu {
        avx2,
        avx512,
        avx512_vnni: avx512 && is_x86_feature_detected!("avx512vnni"),
        avx512_bf16,
        amx_bf16: avx512_bf16 && amx_bf16_granted(),
    }
}

/// Whether the processor has bf16 tiles and Linux lets this process use them.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn amx_bf16_granted() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    if __cpuid(0).eax < 7 {
        return false;
    }
    let edx = __cpuid_count(7, 0).edx;
    let (bf16, tile) = (edx & (1 << 22) != 0, edx & (1 << 24) != 0);
    bf16 && tile && request_tile_data()
}

#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn amx_bf16_granted() -> bool {
    false
}

/// `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`: the permission holds for every thread of the process.
/// Refused by kernels older than 5.16 and by virtual machines that hide the tiles.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn request_tile_data() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XFEATURE_XTILEDATA: u64 = 18;
    let outcome: i64;
    // SAFETY: a system call that changes nothing in memory; it clobbers rcx and r11, as declared.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => outcome,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack)
        );
    }
    outcome == 0
}

#[cfg(test)]
mod tests {
    use super::Cpu;

    #[test]
    fn sets_imply_one_another() {
        let cpu = Cpu::get();
        assert!(!cpu.avx512 || cpu.avx2);
        assert!(!cpu.avx512_bf16 || cpu.avx512);
        assert!(!cpu.amx_bf16 || cpu.avx512_bf16);
        assert_eq!(cpu.names()[0], "scalar");
        assert_eq!(Cpu::SCALAR.names(), ["scalar"]);
    }
}
