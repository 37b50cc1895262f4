/* Retirement and the exclusive wake-up: no connection waits while somebody idle sleeps, no more workers leave than were to,
 * and a drain ends.
 *
 * Mirrors Intake::look_for_one, last_accept, next (worker/intake.cc), Acceptor (worker/acceptor.cc), Seat::begin, idle,
 * retire, may_retire (worker/seat.cc), Workforce::retire_longest_idle, take_back_tickets, nudge_longest_idle, nudge_all
 * (supervisor/workforce.cc), Supervisor::reap_workers (supervisor/supervisor.cc) and drain (supervisor/drain.cc). One
 * statement is one system call or one access to shared memory; what stands in one atomic with it is private.
 *
 * The kernel. A connection walks past the registrations in an order that we do not know, marks each as ready, and stops at the
 * first whose owner waits: that one is woken. So those behind it are not marked, and will not look by themselves. The wait of a
 * nudged worker may fail with EINTR although it was woken (Linux hands it the event first; nothing promises that).
 *
 * Left out: the doorbell (doorbell.pml: whatever happens is noticed), growth (nobody idle: the supervisor forks, or the
 * daemon watches the socket for it), recycling and `max` lowered (both make a busy worker leave, for whom no wake-up was
 * meant), several listen sockets (sockets.pml). A handler may serve for ever. The order of being idle is any.
 *
 * One assumption about time: nobody takes a ticket while the supervisor goes from counting to taking back (and a taker shows
 * as retiring before the next count). Tickets lie for 0.25 s at least, and those instants are microseconds; but if it does happen
 * (-DBUG_TICKET_UNANNOUNCED), the taker is counted as staying, and one more goes. It is one too few, until
 * the supervisor reaps them and forks one if that is below what must stay. After `max` was lowered rounds follow each other
 * without a pause: there it is a little likelier.
 *
 * What this model has found. After an abnormal death the supervisor nudged as many idle workers as connections waited, once. One of
 * them may have had a connection in hand by then, its idle bit about to be cleared: its nudge was lost, and others
 * slept beside the connection. Or the only idle one had looked at the queue before and set its bit after: nobody was nudged. Now
 * the supervisor looks again, until it has seen the queue empty. -DBUG_NUDGES_ONCE is the old way.
 *
 * Configurations: none: workers are retired. -DKILL: one is killed. -DDRAIN: workers 0 and 1 drain, while the last one,
 * of the next generation, waits on the same socket. tests/model/run says which seeded bugs there are. */

#define WORKERS 3
#define MIN     2  /* stay, whatever the supervisor retires */
#ifdef KILL
#define CONNECTIONS 2
#else
#define CONNECTIONS 1
#endif
#if !defined(KILL) && !defined(DRAIN)
#define ROUNDS  2  /* of surplus, one worker each */
#endif
#define bit(i)  (1 << (i))
#define all     7
#define many(x) (((x) & 1) + ((x) >> 1 & 1) + ((x) >> 2 & 1))

#ifdef DRAIN
#define OURS(i) ((i) < 2)
#else
#define OURS(i) true
#endif

/* --- the segment --- */
byte idle;        /* Bits.idle */
byte tickets;     /* the semaphore `retire` */
byte retiring;    /* Slot.state */
bit leaving;      /* Published.leaving: kDrain */

/* --- the kernel, one bit a worker --- */
byte queue;       /* the accept queue */
byte registered, ready, waits, woken;
byte nudged;      /* pending SIGUSR1 */
byte killed, zombies;
bit sigchld;

/* --- what only the properties know --- */
byte coming = CONNECTIONS;
byte gone;        /* have left, or died */
byte hung;        /* serve for ever */
byte took;        /* have a ticket, and do not show it yet */
byte retired;     /* leave because of a ticket */

#define on(set, i)    set = set | bit(i)
#define off(set, i)   set = set & ~bit(i)
#define has(set, i)   ((set) & bit(i))

#define staying many(all & ~(gone & ~zombies) & ~retiring)
#ifdef BUG_TICKET_UNANNOUNCED
#define in_time true
#else
#define in_time (took == 0)
#endif

/* Awake again: as if it had never waited. */
#define stranded (queue > 0 && (waits & ~woken & ~nudged & ~killed) != 0)

#define left (((gone | hung) & 3) == 3)

/* --- connections --- */
inline arrive(w) { waits && has(waits & ~woken, w) -> on(woken, w); on(ready, w) }

proctype clients() {
    byte marked;
end:
    do
    :: atomic {
        coming > 0 -> coming--; queue++;
        if
        :: arrive(0)
        :: arrive(1)
        :: arrive(2)
        :: (waits & ~woken) == 0 -> ready = ready | registered
        fi;
        /* Those in front of it, whoever they are. */
        if
        :: true
        :: ready = ready | (registered & ~waits)
        fi
       }
    od
}

/* --- a worker --- */

inline try_accept() {
    atomic {
        if
        :: queue > 0 -> queue--; got = 1
        :: else -> got = 0
        fi
    }
}

/* epoll_pwait: returns because the socket is ready, or with EINTR. */
inline wait_in_epoll() {
    if
    :: atomic {  /* EPOLL_CTL_ADD, which looks at the socket too */
        !has(registered, me) -> on(registered, me);
        ready = ready | (queue > 0 -> bit(me) : 0)
       }
    :: else
    fi;
    atomic {
        on(waits, me);
        if
        :: has(ready, me) && queue == 0 -> off(ready, me)
        :: else
        fi
    }
end_asleep:
    atomic {
        if
        :: has(woken | ready, me) && queue > 0 -> eintr = 0
        :: has(nudged, me) -> off(nudged, me); eintr = 1
        :: has(woken, me) && queue == 0 -> off(woken, me); off(ready, me); goto end_asleep
        fi;
        off(waits, me); off(woken, me)
    }
}

proctype worker(byte me) {
    bit got, is_busy, eintr, last;
    {
        on(idle, me);  /* Seat::started */
next:
#ifdef DRAIN
        if
        :: leaving && OURS(me) && is_busy -> goto leave
#ifdef BUG_DRAINS_WITHOUT_LOOKING
        :: leaving && OURS(me) && !is_busy -> goto leave
#else
        :: leaving && OURS(me) && !is_busy -> last = 1; goto last_accept
#endif
        :: else
        fi;
#endif
        try_accept();
        if
        :: got -> goto serve
        :: else
        fi;
        if
        :: atomic { is_busy -> on(idle, me); is_busy = 0 }
        :: else
        fi;
        wait_in_epoll();
        if
        :: !eintr -> goto next
        :: else -> eintr = 0
        fi;
#ifdef DRAIN
        if
        :: leaving && OURS(me) -> goto next
        :: else
        fi;
#endif
#ifdef BUG_TICKET_IN_TWO_STEPS
        if
        :: tickets > 0
        :: else -> goto next
        fi;
        atomic { tickets = (tickets > 0 -> tickets - 1 : 0); on(took, me) }
#else
        if
        :: atomic { tickets > 0 -> tickets--; on(took, me) }  /* sem_trywait */
        :: else -> goto next
        fi;
#endif
last_accept:
        atomic { off(registered, me); off(ready, me) }
        atomic {
            off(idle, me);  /* Seat::retire */
            on(retiring, me);
            if
            :: has(took, me) -> off(took, me); retired++
            :: else
            fi
        }
        assert(retired <= WORKERS - MIN);
#ifdef BUG_NO_LAST_ACCEPT
        got = 0;
#else
        try_accept();
#endif
        if
        :: atomic {
            got && !last -> retired--; on(registered, me);
            ready = ready | (queue > 0 -> bit(me) : 0)
           }
        :: atomic { got && last }
        :: !got -> goto leave
        fi;
serve:
        atomic { got = 0; is_busy = 1; off(retiring, me) }  /* Seat::begin */
        off(idle, me);
        if
        :: on(hung, me);
endless:
            (false)
        :: skip
        fi;
        if
        :: last -> goto leave
        :: else -> goto next
        fi;
leave:
        skip
    } unless {
        has(killed, me)
    };
    /* _exit, or SIGKILL at any instruction: what it held is lost. The bits are the supervisor's to clear. */
    atomic {
        off(registered, me); off(ready, me); off(waits, me); off(woken, me); off(nudged, me); off(hung, me); off(took, me);
        on(gone, me); on(zombies, me);
        sigchld = 1
    }
}

#ifdef KILL
proctype killer() {
    if  /* (they are alike; two, so that each is nudged in some run) */
    :: on(killed, 0)
    :: on(killed, 1)
    fi
}
#endif

/* --- the supervisor --- */

/* kill(): nothing to a zombie. */
#define nudge(i) nudged = nudged | (bit(i) & ~gone)

/* Workforce::nudge_longest_idle: the bits as they are at one moment; any of them may have been idle longest. */
inline nudge_idle() {
    some = idle;
    do
    :: atomic { count > 0 && has(some, 0) -> nudge(0); off(some, 0); count-- }
    :: atomic { count > 0 && has(some, 1) -> nudge(1); off(some, 1); count-- }
    :: atomic { count > 0 && has(some, 2) -> nudge(2); off(some, 2); count-- }
    :: atomic { count == 0 || some == 0 -> some = 0; count = 0; break }
    od
}

/* One after the other there, at once here: nobody else looks at a dead worker's bits. */
inline reap_all() {
    d_step {
        abnormal = abnormal | ((zombies & killed) != 0);
        idle = idle & ~zombies;
        zombies = 0
    }
}

proctype supervisor() {
    byte some, count, rounds;
    bit abnormal, look_again;
end:
    do
    :: atomic { sigchld -> sigchld = 0 }
        reap_all();
#ifndef BUG_NOBODY_NUDGED
        if
        :: abnormal -> abnormal = 0; goto rescue
        :: else
        fi
#endif
    :: atomic { look_again -> look_again = 0 }  /* the timer */
rescue:
        atomic {
            count = queue;
#ifndef BUG_NUDGES_ONCE
            look_again = (count > 0)
#endif
        }
        nudge_idle()
#ifdef ROUNDS
    /* A round of surplus: one more than must stay. */
    :: atomic {
        rounds < ROUNDS && staying > MIN && in_time -> rounds++;
#ifndef BUG_TICKETS_PILE_UP
        tickets = 0;  /* take_back_tickets */
#endif
        count = 1
       }
        tickets++;
        nudge_idle()
#endif
#ifdef DRAIN
    :: !leaving -> leaving = 1;
        nudge(0);
        nudge(1)
#endif
    od
}

init {
    atomic {
        run worker(0);
        run worker(1);
        run worker(2);
        run clients();
        run supervisor();
#ifdef KILL
        run killer()
#else
        skip
#endif
    }
}

ltl nobody_is_stranded { [] <> !stranded }
ltl drain_ends { <> left }
