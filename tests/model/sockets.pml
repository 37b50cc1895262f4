/* Several listen sockets and the exclusive wake-up: no connection waits while somebody idle sleeps.
 *
 * Mirrors Intake::look_for_one, last_accept (worker/intake.cc) and Acceptor (worker/acceptor.cc). One statement is one system
 * call, or one step of the kernel in it; what stands in one atomic with it is private, or under one lock there.
 *
 * The kernel (fs/eventpoll.c). A connection walks past the registrations of its socket in an order that we do not know. It
 * marks each: the socket goes to the end of that worker's ready list, if it is not in it. At the first whose owner waits
 * it stops, and that one is woken, and waits no more. Who was woken, or is about to wait, goes through its list: a socket with
 * nothing left falls out; the first that has something is reported, and goes to the end. If none has, a nudge is looked at, and
 * then it waits, or waits on. So who waits has an empty list, and first in the list of a woken one is the socket that woke it.
 *
 * Left out: what retirement.pml shows with one socket. A handler may serve for ever.
 *
 * What this model is for. Workers looked at the sockets in turn. One that was woken by A took a connection of B; the waiter
 * that B had woken found B empty, and slept on; A's connection lay beside it for as long as that of B was served.
 * -DBUG_IN_TURN is the old way.
 *
 * Configurations: none; -DRETIRE: worker 0 is nudged once, for nothing or to leave after a last accept. */

#define WORKERS 3
#define A 0
#define B 1
#define none 2
#define bit(i)        (1 << (i))
#define on(set, i)    set = set | bit(i)
#define off(set, i)   set = set & ~bit(i)
#define has(set, i)   ((set) & bit(i))

byte queue[2];              /* the accept queues */
#ifdef RETIRE
byte coming[2] = {1, 1};
#else
byte coming[2] = {2, 1};
#endif
byte registered[2];         /* one bit a worker, as all that follow */
byte waits, woken, nudged;
byte first[WORKERS] = {none, none, none};  /* the ready lists */
byte second[WORKERS] = {none, none, none};

#define stranded (queue[A] + queue[B] > 0 && (waits & ~nudged) != 0)

inline mark(i, s) {
    if
    :: !has(registered[s], i) || first[i] == s || second[i] == s
    :: else ->
        if
        :: first[i] == none -> first[i] = s
        :: else -> second[i] = s
        fi
    fi
}

/* --- connections --- */

inline walk_past(i, s) {
    if
    :: has(waits, i)
    :: else -> mark(i, s)
    fi
}

inline walk_past_all(s) { walk_past(0, s); walk_past(1, s); walk_past(2, s) }

inline wake(i, s) {
    has(waits & registered[s], i) -> first[i] = s;
    on(woken, i);
    off(waits, i)
}

proctype clients(byte s) {
end:
    do
    :: atomic {
        coming[s] > 0 -> coming[s]--; queue[s]++;
        if
        :: (waits & registered[s]) != 0  /* none in front of it */
        :: walk_past_all(s)
        fi;
        if
        :: wake(0, s)
        :: wake(1, s)
        :: wake(2, s)
        :: (waits & registered[s]) == 0
        fi
       }
    od
}

#ifdef RETIRE
proctype nudger() { on(nudged, 0) }
#endif

/* --- a worker --- */

inline try_accept() {
    tried = 0;
    do
    :: atomic { tried < 2 && queue[next] > 0 -> queue[next]--; next = 1 - next; got = 1; break }
    :: atomic { tried < 2 && queue[next] == 0 -> next = 1 - next; tried++ }
    :: tried == 2 -> break
    od
}

/* Acceptor::register_for_wake; EPOLL_CTL_ADD looks at the socket, too. */
inline add_both() {
    atomic { on(registered[A], me); first[me] = (queue[A] > 0 -> A : none) }
    atomic {
        on(registered[B], me);
        if
        :: queue[B] > 0 -> mark(me, B)
        :: else
        fi
    }
}

inline remove(s) {
    atomic {
        off(registered[s], me);
        if
        :: first[me] == s -> first[me] = second[me]; second[me] = none
        :: second[me] == s -> second[me] = none
        :: else
        fi
    }
}

/* epoll_pwait, with room for one event. */
inline wait_in_epoll() {
    event = none;
    do
    :: atomic { first[me] != none -> at = first[me]; first[me] = second[me]; second[me] = none }
        atomic {
            if
            :: queue[at] > 0 -> event = at; mark(me, at); break
            :: else
            fi
        }
#ifdef RETIRE
    :: atomic { first[me] == none && has(nudged, me) -> off(nudged, me); eintr = 1; break }
#endif
    :: atomic { first[me] == none && !has(nudged, me) -> on(waits, me) }
end_asleep:
        atomic { has(woken | nudged, me) -> off(woken, me); off(waits, me) }
    od
}

proctype worker(byte me) {
    byte event, at, tried;
    bit next, got;
#ifdef RETIRE
    bit eintr;
#endif
again:
    try_accept();
    if
    :: got -> goto serve
    :: !got && !has(registered[B], me) -> add_both()
    :: else
    fi;
    wait_in_epoll();
    if
#ifndef BUG_IN_TURN
    :: event != none -> next = event; goto again
#endif
    :: else
    fi;
#ifdef RETIRE
    if
    :: eintr -> eintr = 0  /* there was a ticket */
    :: eintr -> eintr = 0; goto again
    :: else -> goto again
    fi;
    remove(A);
    remove(B);
    try_accept();
    if
    :: got
    :: else -> goto leave
    fi;
#else
    goto again;
#endif
serve:
    got = 0;
    if
    :: true -> false  /* for ever */
    :: goto again
    fi;
leave:
    skip
}

init {
    atomic {
        run worker(0);
        run worker(1);
        run worker(2);
        run clients(A);
        run clients(B);
#ifdef RETIRE
        run nudger()
#else
        skip
#endif
    }
}

ltl nobody_is_stranded { [] <> !stranded }
