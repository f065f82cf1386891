//! Processes that run programs for [`crate::Sandbox`]: each may be killed, or die of a program, and is then replaced.
//!
//! The protocol is one JSON line in, one JSON line out. A worker is the same binary again, started with a verb that
//! calls [`serve`]; its memory is limited by the operating system, its time by the parent.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::sandbox::{Evaluation, Limits, Probe, evaluate_here};

#[derive(Serialize, Deserialize)]
struct Request {
    program: String,
    probes: Vec<Probe>,
    limits: Limits,
}

/// The stack of the thread that interprets: Monty bounds the depth of Python, and this bounds what a level may cost.
const STACK_BYTES: usize = 64 << 20;
/// What the binary itself maps (code, arenas, the stack above) before a program asks for anything.
const BASE_MEMORY_BYTES: u64 = 768 << 20;
/// A program that ignores its own limit is killed this much later.
const GRACE: Duration = Duration::from_millis(1500);

/// Answers requests until `input` ends. The last thing a worker process does; it never prints anything else.
pub fn serve(input: impl Read + Send, mut output: impl Write + Send) -> std::io::Result<()> {
    std::thread::scope(|scope| {
        let work = move || {
            for line in BufReader::new(input).lines() {
                let line = line?;
                let evaluation = match serde_json::from_str::<Request>(&line) {
                    Ok(request) => {
                        limit_memory(request.limits.memory_bytes as u64);
                        evaluate_here(&request.program, &request.probes, request.limits)
                    }
                    Err(error) => Evaluation::failed(format!("the worker got a request it cannot read: {error}")),
                };
                serde_json::to_writer(&mut output, &evaluation)?;
                output.write_all(b"\n")?;
                output.flush()?;
            }
            Ok(())
        };
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|_| Err(std::io::Error::other("the interpreter panicked")))
    })
}

#[cfg(target_os = "linux")]
fn limit_memory(memory_bytes: u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let want = Some(memory_bytes + BASE_MEMORY_BYTES);
    let have = getrlimit(Resource::As);
    // A limit that the parent's own parent set lower stays; failing to set ours leaves the time limit as the guard.
    if have.current.is_none_or(|current| Some(current) > want) {
        let _ = setrlimit(Resource::As, Rlimit { current: want, maximum: have.maximum });
    }
}

/// Elsewhere address space is not what is scarce or cannot be limited; the time limit bounds what can be allocated.
#[cfg(not(target_os = "linux"))]
fn limit_memory(_memory_bytes: u64) {
    let _ = BASE_MEMORY_BYTES;
}

/// Workers that wait for a program. As many live at once as there are threads that evaluate.
#[derive(Debug)]
pub(crate) struct Pool {
    command: PathBuf,
    args: Vec<String>,
    idle: Mutex<Vec<Worker>>,
}

#[derive(Debug)]
struct Worker {
    process: Child,
    input: ChildStdin,
    answers: Receiver<String>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Pool {
    pub(crate) fn new(command: PathBuf, args: Vec<String>) -> Self {
        Self { command, args, idle: Mutex::new(Vec::new()) }
    }

    pub(crate) fn evaluate(&self, program: &str, probes: &[Probe], limits: Limits) -> Evaluation {
        let request = Request { program: program.to_owned(), probes: probes.to_vec(), limits };
        let line = serde_json::to_string(&request).expect("a request is plain strings and numbers");
        let waiting = self.idle.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).pop();
        let mut worker = match waiting.map_or_else(|| self.spawn(), Ok) {
            Ok(worker) => worker,
            Err(error) => {
                let command = self.command.display();
                return Evaluation::failed(format!("cannot start the sandbox worker {command}: {error}"));
            }
        };
        // A worker that died while idle (out of memory in a sibling, an operator's kill) is not the program's fault.
        if worker.send(&line).is_err() {
            worker = match self.spawn() {
                Ok(worker) => worker,
                Err(error) => return Evaluation::failed(format!("cannot restart the sandbox worker: {error}")),
            };
            if let Err(error) = worker.send(&line) {
                return Evaluation::failed(format!("the sandbox worker takes no work: {error}"));
            }
        }
        match worker.answers.recv_timeout(limits.duration + GRACE) {
            Ok(answer) => {
                let evaluation = serde_json::from_str(&answer).unwrap_or_else(|error| {
                    Evaluation::failed(format!("the sandbox worker answered nonsense: {error}"))
                });
                self.idle.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(worker);
                evaluation
            }
            Err(RecvTimeoutError::Timeout) => {
                Evaluation::failed(format!("timed out after {} ms", limits.duration.as_millis()))
            }
            Err(RecvTimeoutError::Disconnected) => Evaluation::failed(format!(
                "crashed the interpreter, most likely by needing more than {} MiB of memory",
                limits.memory_bytes >> 20
            )),
        }
    }

    fn spawn(&self) -> std::io::Result<Worker> {
        let mut process = Command::new(&self.command)
            .args(&self.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .env_clear()
            .spawn()?;
        let (Some(input), Some(output)) = (process.stdin.take(), process.stdout.take()) else {
            return Err(std::io::Error::other("the worker has no pipes"));
        };
        let (send, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                let Ok(line) = line else { break };
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Worker { process, input, answers })
    }
}

impl Worker {
    fn send(&mut self, line: &str) -> std::io::Result<()> {
        self.input.write_all(line.as_bytes())?;
        self.input.write_all(b"\n")?;
        self.input.flush()
    }
}
