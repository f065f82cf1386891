//! Threads for products: they wait for the next piece of work spinning, for a while, because the next layer's comes
//! within microseconds; then they sleep.
//!
//! One piece of work is a number of tasks; whoever is free takes the next. The caller works too, and never waits for a
//! thread that has not begun: on a busy machine it simply does more of the tasks itself. Results must not depend on who
//! did what, so tasks write different memory and nothing else.

use std::any::Any;
use std::cell::{RefCell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a thread spins before it sleeps: longer than what lies between two products of one forward pass.
const SPIN: Duration = Duration::from_micros(200);

type Work = dyn Fn(usize) + Sync;

/// The piece of work at hand.
struct Job {
    work: *const Work,
    tasks: usize,
}

struct Shared {
    /// Written by the caller while no thread is `active`, read by active threads.
    job: UnsafeCell<Job>,
    /// The number of the piece that was announced last.
    announced: AtomicUsize,
    /// The number of the piece that may still be joined; 0 while there is none.
    open: AtomicUsize,
    next: AtomicUsize,
    /// Threads that may be looking at `job`.
    active: AtomicUsize,
    asleep: Mutex<usize>,
    wake: Condvar,
    any_asleep: AtomicUsize,
    stop: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is written only by the caller that holds the pool, while `open` is 0 and `active` is 0; threads read it
// only between raising `active` and lowering it, having seen its number in `open`. The work itself is Sync.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer in `job` is used only while the caller's borrow lasts.
unsafe impl Send for Shared {}

/// A caller and its threads.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Held by the caller whose work is done; others do theirs alone.
    busy: Mutex<()>,
}

static GLOBAL: OnceLock<Pool> = OnceLock::new();

thread_local! {
    static INSTALLED: RefCell<Vec<*const Pool>> = const { RefCell::new(Vec::new()) };
}

/// Sets how many threads work, the caller among them; only before the first work of the process. Returns whether it
/// was.
pub fn set_threads(threads: usize) -> bool {
    let mut fresh = false;
    GLOBAL.get_or_init(|| {
        fresh = true;
        Pool::new(threads)
    });
    fresh
}

/// How many threads work, the caller among them.
pub fn threads() -> usize {
    with_current(|pool| pool.threads.len() + 1)
}

/// Runs `work` for every number below `tasks`, each once, on whichever thread is free. Panics in a task reach the
/// caller.
pub fn run(tasks: usize, work: &(dyn Fn(usize) + Sync)) {
    match tasks {
        0 => {}
        1 => work(0),
        _ => with_current(|pool| pool.run(tasks, work)),
    }
}

/// Runs `work` on every item.
pub fn for_each<T: Send>(items: Vec<T>, work: impl Fn(T) + Sync) {
    /// Items that are taken out one by one, each by one thread.
    struct Items<T>(*const T);
    // SAFETY: the pointer stands for a `Vec<T>` of Send items, each of which goes to one thread.
    unsafe impl<T: Send> Sync for Items<T> {}
    impl<T> Items<T> {
        /// # Safety
        /// Within the items, and each only once.
        unsafe fn take(&self, index: usize) -> T {
            // SAFETY: as promised by the caller.
            unsafe { self.0.add(index).read() }
        }
    }
    let mut items = items;
    let count = items.len();
    let source = Items(items.as_ptr());
    // SAFETY: from here on the items belong to the tasks; the vector keeps only its memory. If a task panics, those not
    // yet taken are leaked.
    unsafe { items.set_len(0) };
    // SAFETY: every number below `count` comes once.
    run(count, &|index| work(unsafe { source.take(index) }));
}

/// Runs `work` on every `chunk` of `values` and its number.
pub fn for_each_chunk<T: Send>(values: &mut [T], chunk: usize, work: impl Fn(usize, &mut [T]) + Sync) {
    for_each(values.chunks_mut(chunk).enumerate().collect(), |(index, chunk)| work(index, chunk));
}

fn with_current<R>(work: impl FnOnce(&Pool) -> R) -> R {
    let installed = INSTALLED.with(|pools| pools.borrow().last().copied());
    match installed {
        // SAFETY: `install` borrows the pool for as long as it is on this list.
        Some(pool) => work(unsafe { &*pool }),
        None => work(GLOBAL.get_or_init(|| Pool::new(available()))),
    }
}

/// Processors that this process may use.
fn available() -> usize {
    std::thread::available_parallelism().map_or(1, |count| count.get())
}

impl Pool {
    /// `threads` threads, of which the caller is one.
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            job: UnsafeCell::new(Job { work: &|_| {}, tasks: 0 }),
            announced: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            active: AtomicUsize::new(0),
            asleep: Mutex::new(0),
            wake: Condvar::new(),
            any_asleep: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let start = |index: usize| {
            let shared = Arc::clone(&shared);
            let name = format!("lateen-{index}");
            std::thread::Builder::new().name(name).spawn(move || shared.serve()).expect("a thread can be started")
        };
        let threads = (1..threads.max(1)).map(start).collect();
        Self { shared, threads, busy: Mutex::new(()) }
    }

    /// Runs `inside` with this pool in the place of the process's own.
    pub fn install<R>(&self, inside: impl FnOnce() -> R) -> R {
        struct Guard;
        impl Drop for Guard {
            fn drop(&mut self) {
                INSTALLED.with(|pools| pools.borrow_mut().pop());
            }
        }
        INSTALLED.with(|pools| pools.borrow_mut().push(self));
        let _guard = Guard;
        inside()
    }

    fn run(&self, tasks: usize, work: &(dyn Fn(usize) + Sync)) {
        // Whoever comes while another's work is under way, or from within a task, works alone.
        let busy = self.busy.try_lock();
        if self.threads.is_empty() || busy.is_err() {
            return (0..tasks).for_each(work);
        }
        let shared = &*self.shared;
        // SAFETY: only the lifetime is changed: `close` returns when no thread looks at the job any more.
        let work: *const Work = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &Work>(work) };
        // SAFETY: `busy` is held, nothing is open and nobody active, so nobody reads it.
        unsafe { *shared.job.get() = Job { work, tasks } };
        shared.next.store(0, Ordering::Relaxed);
        let number = shared.announced.load(Ordering::Relaxed) + 1;
        shared.open.store(number, Ordering::SeqCst);
        shared.announced.store(number, Ordering::SeqCst);
        if shared.any_asleep.load(Ordering::SeqCst) > 0 {
            drop(shared.asleep.lock());
            shared.wake.notify_all();
        }
        shared.work_off();
        shared.close();
        let panic = shared.panic.lock().map_or(None, |mut panic| panic.take());
        drop(busy);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Shared {
    /// Takes tasks until there are none.
    fn work_off(&self) {
        // SAFETY: the caller of `run`, or a thread that is active and has seen the job's number in `open`.
        let job = unsafe { &*self.job.get() };
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= job.tasks {
                return;
            }
            // SAFETY: the work outlives the call of `run`, which waits for all active threads.
            let work = unsafe { &*job.work };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(index))) {
                self.next.store(job.tasks, Ordering::Relaxed);
                if let Ok(mut first) = self.panic.lock() {
                    first.get_or_insert(panic);
                }
            }
        }
    }

    /// No thread joins any more, and none is left inside.
    fn close(&self) {
        self.open.store(0, Ordering::SeqCst);
        let mut spins = 0u32;
        while self.active.load(Ordering::SeqCst) > 0 {
            spins += 1;
            if spins < 1 << 14 { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
    }

    /// A thread's life.
    fn serve(&self) {
        let mut seen = 0;
        loop {
            seen = self.wait_for_news(seen);
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            self.active.fetch_add(1, Ordering::SeqCst);
            if self.open.load(Ordering::SeqCst) == seen {
                self.work_off();
            }
            self.active.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn wait_for_news(&self, seen: usize) -> usize {
        let start = Instant::now();
        loop {
            for _ in 0..64 {
                let announced = self.announced.load(Ordering::SeqCst);
                if announced != seen {
                    return announced;
                }
                std::hint::spin_loop();
            }
            if start.elapsed() > SPIN {
                break;
            }
        }
        let mut asleep = self.asleep.lock().expect("nothing panics while it holds this lock");
        *asleep += 1;
        self.any_asleep.store(*asleep, Ordering::SeqCst);
        while self.announced.load(Ordering::SeqCst) == seen {
            asleep = self.wake.wait(asleep).expect("nothing panics while it holds this lock");
        }
        *asleep -= 1;
        self.any_asleep.store(*asleep, Ordering::SeqCst);
        self.announced.load(Ordering::SeqCst)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.announced.fetch_add(1, Ordering::SeqCst);
        drop(self.shared.asleep.lock());
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked outside of a task has nothing more to say.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads);
            pool.install(|| {
                assert_eq!(super::threads(), threads);
                for round in 0..2000 {
                    let counts: Vec<AtomicUsize> = (0..round % 37).map(|_| AtomicUsize::new(0)).collect();
                    run(counts.len(), &|index| {
                        counts[index].fetch_add(1, Ordering::Relaxed);
                    });
                    assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
                }
            });
        }
    }

    #[test]
    fn sleeping_threads_wake_and_work_inside_work_is_done() {
        let pool = Pool::new(3);
        pool.install(|| {
            for _ in 0..20 {
                std::thread::sleep(2 * SPIN);
                let sum = AtomicUsize::new(0);
                run(10, &|outer| {
                    pool.install(|| {
                        run(10, &|inner| {
                            sum.fetch_add(10 * outer + inner, Ordering::Relaxed);
                        });
                    });
                });
                assert_eq!(sum.into_inner(), (0..100).sum());
            }
        });
    }

    #[test]
    fn items_are_moved_and_chunks_cover_the_slice() {
        let pool = Pool::new(4);
        pool.install(|| {
            let sum = AtomicUsize::new(0);
            for_each((0..100).map(Box::new).collect(), |item: Box<usize>| {
                sum.fetch_add(*item, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 4950);
            let mut values = vec![0; 1001];
            for_each_chunk(&mut values, 10, |index, chunk| chunk.fill(index));
            assert!(values.iter().enumerate().all(|(at, &value)| value == at / 10));
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let pool = Pool::new(3);
        pool.install(|| {
            let outcome = catch_unwind(|| run(50, &|index| assert!(index != 17, "seventeen")));
            assert!(outcome.is_err());
            let sum = AtomicUsize::new(0);
            run(50, &|index| {
                sum.fetch_add(index, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 1225);
        });
    }
}
