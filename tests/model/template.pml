/* The template of a pool: whoever it makes is found, once, and told to leave when the pool is; nobody is left in a slot that
 * another is given; each order ends.
 *
 * Mirrors ForkPoint::stand, obey, fork (template/point.cc), SiblingFork::fork (template/sibling.cc), Template::receive, was,
 * note_found, close_order (supervisor/template.cc), Workforce::order, take_over, take_over_newborns, reap (supervisor/workforce.cc)
 * and Supervisor::begin_drain (supervisor/supervisor.cc). One statement is one system call or one access to shared memory; what
 * stands in one atomic with it is private.
 *
 * The clone makes the process and writes its pid into the slot, in one step that no SIGKILL comes into
 * (CLONE_PARENT_SETTID). What a template has said before its death is read after it.
 *
 * Left out: what a worker does between its clone and its leaving (retirement.pml), a template that never answers (it is killed
 * at its deadline, which is a death), one that lies (its slots are freed, and it is killed).
 *
 * Configurations: none: the pool leaves at some time, and the template or a worker may be killed before. tests/model/run says
 * which seeded bugs there are; -DBUG_FREED_TWICE and -DBUG_NEWBORN_UNTOLD were made when this was written, and found by a test
 * and by a reader. */

#define SLOTS  2
#define ORDERS 2
#define STARTS 2  /* of templates */
#define bit(i) (1 << (i))
#define all    3

#define on(set, i)  set = set | bit(i)
#define off(set, i) set = set & ~bit(i)
#define has(set, i) ((set) & bit(i))

/* --- the segment --- */
byte announced;   /* Slot.pid, by slot */
bit leaving;      /* Published.leaving: kDrain */

/* --- the kernel --- */
byte living, zombies, nudged, killed;  /* workers, by slot */
bit template_lives, template_zombie, template_killed;
byte order;       /* on its way to the template: slots */
bit report;       /* on its way to the supervisor: the order is over */
bit sigchld;

/* --- the supervisor's own --- */
byte alive;       /* Scoreboard: slots that count */
byte table;       /* WorkerTable */
byte awaited;     /* Template */
bit at_work, is_over;

/* --- a worker --- */
proctype worker(byte me) {
    {
#ifdef BUG_ANNOUNCES_ITSELF
        on(announced, me);
#endif
        do
        :: leaving -> break
        :: !leaving ->
end_asleep:
            atomic { has(nudged, me) -> off(nudged, me) }
        od
    } unless {
        has(killed, me)
    };
    atomic { off(living, me); off(nudged, me); off(killed, me); on(zombies, me); sigchld = 1 }
}

/* --- the template --- */
inline clone(i) {
    atomic {
        on(living, i);
#ifndef BUG_ANNOUNCES_ITSELF
        on(announced, i);
#endif
        run worker(i)
    }
}

proctype the_template() {
    byte slots;
    {
end:
        do
        :: atomic { order -> slots = order; order = 0 }
            if
            :: has(slots, 0) -> clone(0)
            :: else
            fi;
            if
            :: has(slots, 1) -> clone(1)
            :: else
            fi;
            report = 1
        od
    } unless {
        template_killed
    };
    atomic { template_killed = 0; template_lives = 0; template_zombie = 1; order = 0; sigchld = 1 }
}

/* Whoever it is, at any moment. */
proctype killer() {
    if
    :: atomic { template_lives -> template_killed = 1 }
    :: atomic { has(living, 0) -> on(killed, 0) }
    :: true
    fi
}

/* --- the supervisor --- */
#define nudge(i) nudged = nudged | (bit(i) & living)

/* Workforce::take_over: it is a child of ours, alive or a zombie (or was, just now). */
inline take_over(i) {
    if
    :: atomic {
        has(awaited, i) && has(announced, i) && has(living | zombies, i) -> on(table, i); off(awaited, i)
       }
#ifndef BUG_NEWBORN_UNTOLD
        nudge(i)
#endif
    :: else
    fi
}

inline free_awaited(i) {
    if
#ifdef BUG_FREED_TWICE
    :: atomic { has(was_ordered, i) && !has(table, i) -> assert(has(alive, i)); off(alive, i) }
#else
    :: atomic { has(awaited, i) -> assert(has(alive, i)); off(alive, i); off(awaited, i) }
#endif
    :: else
    fi
}

inline bury(i) {
    if
    :: has(zombies, i) ->
        take_over(i);
        atomic {
            off(zombies, i);  /* wait4 */
            if
            :: has(table, i) -> off(table, i); assert(has(alive, i)); off(alive, i)
            :: else
            fi
        }
    :: else
    fi
}

proctype supervisor() {
    byte orders, starts, was_ordered;
end:
    do
    :: atomic { sigchld -> sigchld = 0 }
        bury(0);
        bury(1);
        if
        :: atomic { template_zombie -> template_zombie = 0; report = 0; is_over = at_work }  /* its last words first */
        :: else
        fi
    :: atomic { report -> report = 0; is_over = at_work }
    :: at_work && (is_over || (awaited & announced)) ->
        take_over(0);
        take_over(1);
        if
        :: is_over ->
            free_awaited(0);
            free_awaited(1);
            atomic { awaited = 0; at_work = 0; is_over = 0 }
        :: else
        fi
    :: atomic { !leaving && !template_lives && !template_zombie && starts < STARTS -> starts++; template_lives = 1 }
        run the_template()
    :: atomic {
        !leaving && template_lives && !at_work && alive != all && orders < ORDERS -> orders++;
        was_ordered = all & ~alive;
        /* Scoreboard::prepare: nobody is in it. */
        assert(!(was_ordered & (living | zombies)));
        announced = announced & ~was_ordered;
        alive = all;
        awaited = was_ordered;
        at_work = 1;
        order = was_ordered
       }
    :: atomic { !leaving && starts > 0 -> leaving = 1 }
        if
        :: has(table, 0) -> nudge(0)
        :: else
        fi;
        if
        :: has(table, 1) -> nudge(1)
        :: else
        fi;
        if
        :: template_lives -> template_killed = 1
        :: else
        fi
    od
}

init {
    atomic {
        run supervisor();
        run killer()
    }
}

ltl orders_end { [] (at_work -> <> !at_work) }
ltl all_leave { [] (leaving -> <> (living == 0 && alive == 0)) }
