//! What the kernel says about a process: CPU time used, and the CPUs it may run on.

use std::{fs, io, time::Duration};

use rustix::{
    process::Pid,
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::{ClockId, clock_gettime},
};

/// CPU time, user and system, that all threads of a process have used.
///
/// From `schedstat`, which counts nanoseconds; `stat` counts ticks of 10 ms and is the fallback where the kernel was
/// built without.
///
/// # Errors
/// When there is no such process.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    let mut nanoseconds = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end between the listing and the reading; what it used is then missing.
        if let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) {
            nanoseconds += on_cpu_ns(&text).unwrap_or(0);
        }
    }
    if nanoseconds > 0 {
        return Ok(Duration::from_nanos(nanoseconds));
    }
    let ticks = used_ticks(&fs::read_to_string(format!("/proc/{pid}/stat"))?).unwrap_or(0);
    Ok(Duration::from_millis(ticks * 10))
}

/// The first number of a `schedstat`: nanoseconds on a CPU.
fn on_cpu_ns(schedstat: &str) -> Option<u64> {
    schedstat.split_ascii_whitespace().next()?.parse().ok()
}

/// `utime + stime` of a `stat`, which are its fields 14 and 15; the name before them may hold blanks and brackets.
fn used_ticks(stat: &str) -> Option<u64> {
    let after_name = &stat[stat.rfind(')')? + 1..];
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let utime: u64 = fields.next()?.parse().ok()?;
    let stime: u64 = fields.next()?.parse().ok()?;
    Some(utime + stime)
}

/// CPU time that the calling thread has used.
pub fn own_thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The CPUs the calling thread may run on.
///
/// # Errors
/// What the kernel says.
pub fn allowed_cpus() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect())
}

/// Binds the calling thread to some CPUs; processes that it starts from then on inherit that.
///
/// # Errors
/// When none of them is there.
pub fn pin(cpus: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(*cpu);
    }
    Ok(sched_setaffinity(None, &set)?)
}

/// Sends SIGTERM.
///
/// # Errors
/// When there is no such process any more.
pub fn terminate(pid: u32) -> io::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::kill_process(pid, rustix::process::Signal::TERM)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_behind_the_last_bracket() {
        let stat = "7 (a) b) c) S 1 7 7 0 -1 4194560 100 0 0 0 31 11 0 0 20 0 1 0 5 0 0";
        assert_eq!(used_ticks(stat), Some(42));
        assert_eq!(used_ticks("nonsense"), None);
    }

    #[test]
    fn schedstat_starts_with_nanoseconds() {
        assert_eq!(on_cpu_ns("98376 7075220 2\n"), Some(98_376));
        assert_eq!(on_cpu_ns(""), None);
    }

    #[test]
    fn own_cpu_time_grows_with_work() {
        let before = cpu_time(std::process::id()).unwrap();
        let thread_before = own_thread_cpu();
        let mut sum = 0_u64;
        while own_thread_cpu() - thread_before < Duration::from_millis(20) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(cpu_time(std::process::id()).unwrap() > before);
    }
}
