/* The doorbell: no wake-up is lost. Who becomes busy, a signal, a ringer's death, a connection's deadline: of each the
 * supervisor learns before it sleeps for good.
 *
 * Mirrors Supervisor::run, turn and resize (supervisor/supervisor.cc), BusyWatch::arm (supervisor/busy_watch.cc),
 * WorkerDeadlines::end_overdue (supervisor/worker_deadlines.cc),
 * Scoreboard::counts (shm/scoreboard.cc), ring and sleep_until_rung (shm/doorbell.cc), Seat::begin, count_and_ring and
 * idle (worker/seat.cc). All accesses there are seq_cst, so that interleavings of single steps are all there is. A
 * statement here is one load, one store or one read-modify-write there; where several stand in one atomic or d_step, all
 * but one of them touch private memory, or variables that only the properties know.
 *
 * Left out: the pause after a flood (rest() always times out, and looks again), start tickets, the tick. Time is one
 * question: does a timer run that ends no later than a connection that begins now would be overdue?
 *
 * What this model has found, first in ring(). A ringer added 1, the supervisor read that as `seen`, looked, and set `sleeping`;
 * the ringer took the flag and woke nobody, because FUTEX_WAIT had not begun. It then began with `ring` unchanged and
 * `sleeping` at 0, and no later ringer made the system call: the supervisor slept until the next signal or timer. Now who
 * takes the flag adds 1 once more, before it wakes. -DBUG_TAKES_THE_FLAG_ONLY is the old way.
 *
 * Then in arm(). It disarmed `watch` as soon as counts() saw somebody busy, and took its timer from end_overdue() after
 * that. A worker that began after the turn's first end_overdue(), in resize() (the watch of the sleep before being disarmed,
 * it did not ring), and was done before the second, left neither a timer nor a watch behind: the next connection had no
 * deadline until something else woke the supervisor. Likewise if the only timer was a later one (`start` may take
 * 30 s). Now the watch stays armed unless the timer comes in time. -DBUG_DISARMED_ON_SIGHT is the old way.
 *
 * -DWATCH checks the watch and the deadlines; without it, the bell with a death and a message. Both at once are
 * forty million states, and nothing that could go wrong between them.
 *
 * tests/model/run says which seeded bugs there are and which property must catch each. */

#define WORKERS     2
#define CONNECTIONS 3  /* in all */
#define LOW_WATER   1  /* max(min_spare, 1) */

#define bit(i)  (1 << (i))
#define both(x) (((x) & 1) + ((x) >> 1 & 1))

/* --- the segment --- */
bit rung;               /* Doorbell: `ring` is not what the supervisor last read */
bit sleeping;
byte low_water;         /* Published */
bit watch;              /* Shared */
byte idle = 3, busy;    /* Bits */
bit slot_busy[WORKERS]; /* Slot.state: busy or not */

/* --- the kernel --- */
bit asleep;             /* the supervisor is in FUTEX_WAIT's queue */
bit signal_pending;     /* to the supervisor: SIGCHLD, or SIGIO for a message of the daemon's */
bit message;            /* in the channel: `max` is raised */
bit killed[WORKERS];    /* SIGKILL is under way */
bit zombie[WORKERS];
bit gone[WORKERS];      /* reaped */
bit timer;              /* the wait has a timeout, and it comes no later than a new connection's deadline */

/* --- what only the properties know --- */
byte connections = CONNECTIONS;  /* still to come */
bit room;               /* below `max`: the supervisor wants to hear of a shortage */
bit shortage;           /* fewer idle than low water, and the supervisor has not looked at the bits since */
bit hung[WORKERS];      /* serves for ever, unless it is ended */

/* The futex: wake is one step in the kernel, as is "compare and go to sleep". */
inline futex_wake() { asleep = 0 }

/* --- a worker --- */

inline ring_the_bell() {
#ifdef BUG_FLAG_BEFORE_RING
    flag = sleeping;
    rung = 1;
    if
    :: flag -> flag = sleeping; sleeping = 0; futex_wake()
    :: else
    fi;
#else
    rung = 1;
    if
    :: sleeping == 1 ->
        atomic { flag = sleeping; sleeping = 0 }  /* exchange */
        if
        :: flag ->
#ifndef BUG_TAKES_THE_FLAG_ONLY
            rung = 1;
#endif
            futex_wake()
        :: else
        fi
    :: else
    fi;
#endif
    flag = 0
}

inline load_idle() { d_step { count = both(idle) } }

/* Seat::count_and_ring */
inline count_and_ring() {
#ifndef BUG_COUNTS_BEFORE_CLEARING
    load_idle();
#endif
    wanted = (count < low_water);
#ifdef WATCH
    if
    :: watch == 1 ->
        atomic { wanted = wanted | watch; watch = 0 }  /* exchange */
    :: else
    fi;
#endif
    if
    :: atomic { wanted -> wanted = 0; count = 0 }
        ring_the_bell()
    :: atomic { !wanted -> count = 0 }
    fi
}

proctype worker(byte me) {
    byte count;
    bit wanted, flag;
    {
end:
        do
        :: atomic { connections > 0 -> connections--; slot_busy[me] = 1 }  /* Seat::begin */
            busy = busy | bit(me);
#ifdef BUG_COUNTS_BEFORE_CLEARING
            load_idle();
#endif
            d_step {
                idle = idle & ~bit(me);
                if
                :: room && both(idle) < LOW_WATER -> shortage = 1
                :: else
                fi
            }
            count_and_ring();
            if
            :: hung[me] = 1;
endless:
                (false)  /* until it is killed */
            :: skip
            fi;
            d_step { idle = idle | bit(me); shortage = 0 }  /* Seat::idle: whatever was missing, is there */
            busy = busy & ~bit(me);
            slot_busy[me] = 0
        od
    } unless {
        /* At any instruction: the bits stay as they are, and it leaves a SIGCHLD. */
        atomic {
            killed[me] -> hung[me] = 0; zombie[me] = 1;
#ifndef BUG_DEATH_UNHEARD
            signal_pending = 1
#endif
        }
    }
}

/* Somebody kills one worker, whatever it does. */
proctype killer() {
    if
    :: killed[0] = 1
    :: killed[1] = 1
    :: skip
    fi
}

/* The daemon raises `max`: a datagram, and SIGIO with it. */
proctype daemon() { atomic { message = 1; signal_pending = 1 } }

/* on_signal (supervisor/supervisor.cc) interrupts the supervisor between any two steps; its one step that another
 * process sees is the addition. If it runs in FUTEX_WAIT, that returns EINTR. */
proctype signal_handler() {
end:
    do
    :: atomic {
        signal_pending -> signal_pending = 0;
#ifndef BUG_HANDLER_IS_SILENT
        rung = 1;
#endif
        asleep = 0
       }
    od
}

/* --- the supervisor --- */

inline reap(i) {
    if
    :: atomic { zombie[i] -> zombie[i] = 0; gone[i] = 1; did_something = 1; room = 1 }
        idle = idle & ~bit(i);  /* Scoreboard::fold */
        busy = busy & ~bit(i);
        slot_busy[i] = 0
    :: else
    fi
}

/* WorkerDeadlines::end_overdue: each slot in turn. At a timeout whoever is overdue is ended. */
inline check(i) {
    d_step {
        if
        :: slot_busy[i] && !gone[i] ->
            timer = 1;
            if
            :: timed_out && hung[i] -> killed[i] = 1
            :: else
            fi
        :: else
        fi
    }
}
inline end_overdue() { check(0); check(1) }

inline look() { shortage = 0 }  /* Scoreboard::counts: decide() sees the bits as they are now */

proctype supervisor() {
    byte seen_idle;
    bit did_something, timed_out;
turn:
    atomic { did_something = 0; timer = 0; }
#ifndef BUG_SEEN_AFTER_THE_LOOK
    rung = 0;  /* seen = ring */
#endif
    /* obey_daemon, reap_workers */
    if
    :: atomic { message -> message = 0; room = 1; did_something = 1 }
    :: else
    fi;
    reap(0);
    reap(1);
    /* resize */
#ifdef WATCH
    end_overdue();
    timed_out = 0;
#endif
    low_water = (room -> LOW_WATER : 0);
    look();
    if
    :: did_something -> goto turn
    :: else
    fi;
#ifdef WATCH
    /* arm */
    watch = 1;
    seen_idle = idle;
    if
    :: (busy & ~seen_idle) != 0 ->
#ifdef BUG_DISARMED_ON_SIGHT
        watch = 0;
        end_overdue()
#else
        end_overdue();
        if
        :: timer -> watch = 0
        :: else
        fi
#endif
    :: else
    fi;
    seen_idle = 0;
#endif
#ifdef BUG_SEEN_AFTER_THE_LOOK
    rung = 0;  /* seen = ring */
#endif
    /* sleep_until_rung */
#ifndef BUG_NEVER_SAYS_THAT_IT_SLEEPS
    sleeping = 1;
#endif
    atomic {
        if
#ifdef BUG_WAITS_WITHOUT_COMPARING
        :: true -> asleep = 1
#else
        :: !rung -> asleep = 1
        :: else
#endif
        fi
    }
end:
    if
    :: !asleep
    :: atomic { asleep && timer -> asleep = 0; timed_out = 1 }
    fi;
    sleeping = 0;
    goto turn
}

init {
    atomic {
        run supervisor();
        run signal_handler();
        run worker(0);
        run worker(1);
#ifndef WATCH
        run killer();
        run daemon()
#else
        skip
#endif
    }
}

ltl shortage_is_seen { [] (shortage -> <> !shortage) }
ltl death_is_seen    { [] (zombie[0] -> <> !zombie[0]) }
ltl message_is_read  { [] (message -> <> !message) }
ltl hung_is_ended    { [] (hung[0] -> <> !hung[0]) }
