# preforkd. 'make help' lists what there is. One folder of objects per variant: BUILD=release (default), debug, asan, tsan, fuzz.
BUILD   ?= release
PREFIX  ?= /usr/local
DESTDIR ?=
OUT     := build/$(BUILD)
CXX     := $(if $(filter fuzz,$(BUILD)),clang++,$(CXX))

FLAGS_release := -O2 -g -fno-plt -DNDEBUG
FLAGS_debug   := -O0 -g -DPREFORKD_DEBUG
FLAGS_asan    := -Og -g1 -DPREFORKD_DEBUG -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
FLAGS_tsan    := -O1 -g1 -fsanitize=thread
FLAGS_sim     := -O2 -g1 -DNDEBUG
FLAGS_fuzz    := -O1 -g1 -fsanitize=fuzzer-no-link,address,undefined,float-cast-overflow -fno-sanitize-recover=all
# What tests is compiled in half the time without being optimised; what is tested stays as it is.
FLAGS_tests   := -O0 -g1
# What the simulation has instead comes first.
LANGUAGE      := -std=c++20 -Wall -Wextra -Wshadow $(if $(filter sim,$(BUILD)),-Itests/sim/include) -I. -Iworker/include -DPREFORKD_PREFIX='"$(PREFIX)"'
ALL_CXXFLAGS   = $(LANGUAGE) -Werror -fPIC -fvisibility=hidden $(FLAGS_$(BUILD)) $(CXXFLAGS)
# The supervisor is forked from for each worker and every library mapped into it is copied each time: it links libc alone.
STATIC_release := -Wl,--as-needed -static-libstdc++ -static-libgcc -Wl,--exclude-libs,ALL
STATIC_debug   := $(STATIC_release)
HARDEN := -Wl,-z,relro,-z,now
# Fewer mappings: each is copied at each fork.
COMPACT := -Wl,-z,noseparate-code
# The kernel maps code by 16 pages (64 KiB) around the one that is touched: what a fresh worker runs lies within those.
TOGETHER_release := -Wl,-z,max-page-size=65536,-Ttext=0x10000

# Whoever may not read a program may not look into its process either, from the first instruction on (daemon/launch.h).
# (Nor may AddressSanitizer, as that user, look for leaks, or read its options from /proc/self/environ.)
UNREADABLE = chmod $(if $(filter asan,$(BUILD)),755,711) $@

FRESH    := worker/worker worker/intake worker/seat worker/acceptor worker/gate worker/host worker/program worker/closing shm/peer shm/note shm/admissions shm/doorbell shm/tickets shm/mapping base/range_set supervisor/workforce supervisor/supervisor
PROGRAMS := preforkd preforkd-supervisor preforkd-supervisor-static preforkd-control preforkd-log preforkctl
MAINS    := $(wildcard */main.cc) supervisor/without_handlers.cc worker/libpreforkd.cc
FOLDERS  := base ipc shm conf systemd template worker interpose supervisor daemon control log ctl
HANDLERS := $(patsubst %.cc,$(OUT)/%.so,$(wildcard handlers/*.cc))
BINDINGS := $(patsubst bindings/%,$(OUT)/%,$(wildcard bindings/*/*.p[my]))
IMAGES   := $(patsubst %.cc,$(OUT)/%,$(wildcard tests/system/images/*.cc))
# The next version, as far as tests upgrade to it: the same but for its numbers (base/version.cc, shm/layout.cc).
NEXT     := $(patsubst %,$(OUT)/next/%,preforkd preforkd-supervisor preforkd-supervisor-static preforkd-control libpreforkd.so.1)
NUMBERS  := $(OUT)/next/base/version.o $(OUT)/next/shm/layout.o
SYSTEM   := build/system-tests $(NEXT) $(IMAGES) $(patsubst %.cc,$(OUT)/%.so,$(wildcard tests/system/handlers/*.cc)) $(patsubst %.cc,$(OUT)/%,$(wildcard tests/system/programs/*.cc))
PARALLEL := $(MAKE) --no-print-directory -j$(shell nproc)
FUZZERS  := $(patsubst %.cc,$(OUT)/%,$(wildcard tests/fuzz/*.cc))
BENCHES  := $(patsubst bench/%.cc,$(OUT)/bench/%,$(wildcard bench/*.cc)) $(OUT)/bench/bare-dynamic

# Debian packages: what every target needs, and what some need besides. What is missing is installed.
FOR_all   := g++ make libconfig++-dev libsystemd-dev libmicrohttpd-dev nlohmann-json3-dev
FOR_test  := libcunit1-dev curl dbus dropbear-bin git haproxy hitch hunspell-en-us iproute2 libc6-dbg libcurl4-openssl-dev libffi-platypus-perl libhunspell-dev libnss-systemd netcat-openbsd nginx-light openssl perl pkgconf procps python3 rsync systemd ucspi-tcp valgrind
FOR_bench := gunicorn hunspell-en-us libffi-platypus-perl libhunspell-dev perl python3 python3-django ucspi-tcp
FOR_soak  := $(FOR_test)
FOR_sweep := binutils iproute2 libcunit1-dev libcurl4-openssl-dev libunwind-dev util-linux
FOR_tsan  := libcunit1-dev
FOR_fuzz  := clang libclang-rt-dev llvm
FOR_lint  := $(FOR_test) clang-format clang-tidy shellcheck
FOR_model := spin
FOR_sim-bugs := patch
FOR_more   = $(FOR_deps)
FOR_deps  := $(FOR_lint) $(FOR_sweep) $(FOR_fuzz) $(FOR_model) $(FOR_sim-bugs)
PACKAGES  := $(sort $(FOR_all) $(foreach goal,$(MAKECMDGOALS),$(FOR_$(goal))))

.PHONY: all run test tests unit system tsan fuzz fuzzers bench soak sweep lint more model sim sim-bugs sim-bugs-found format deps install clean help always
all: $(PROGRAMS:%=$(OUT)/%) $(OUT)/libpreforkd.so.1 $(BINDINGS) $(HANDLERS)   ## build the programs and the handlers

run: deps                                 ## install what is missing, build, and run on the built-in default
	@$(PARALLEL) all
	$(OUT)/preforkd

test: deps                                ## the same, and run all tests
	@$(PARALLEL) tests
	@$(MAKE) --no-print-directory unit system
tests: all $(OUT)/unit-tests $(SYSTEM)    ## build all that tests run

unit: $(OUT)/unit-tests                   ## run the unit tests (ONLY=suite picks one)
	BUILD_DIR=$(CURDIR)/$(OUT) $< $(ONLY)
system: all $(SYSTEM)                     ## run the tests of the real programs (ONLY=suite picks one)
	tests/system/run $(CURDIR)/$(OUT) $(ONLY)

tsan: deps                                ## use what processes share by threads, watched by ThreadSanitizer
	@$(PARALLEL) BUILD=tsan build/tsan/threads
	build/tsan/threads
fuzz: deps                                ## let each fuzzer try for FUZZ_SECONDS=60 (ONLY=fuzzer picks one)
	@$(PARALLEL) BUILD=fuzz fuzzers
	tests/fuzz/run $(CURDIR)/build/fuzz $(ONLY)
fuzzers: $(FUZZERS)

sim: deps                                 ## play ten minutes of a pool's life RUNS=1000 times, from SEED=1 on
	@$(PARALLEL) BUILD=sim build/sim/sim
	build/sim/sim $(or $(SEED),1) $(or $(RUNS),1000) $(if $(TRACE),trace)
sim-bugs: deps                            ## whether it finds the bugs of tests/sim/bugs (ONLY=bug picks one)
	@$(PARALLEL) BUILD=sim sim-bugs-found
sim-bugs-found: $(OUT)/sim
	@COMPILE='$(CXX) $(ALL_CXXFLAGS)' LINK='$(CXX) $(ALL_CXXFLAGS) $(SIM_FLAGS)' OBJECTS='$(SIM_OBJECTS)' LIBRARIES='$(SIM_ARCHIVES) $(SIM_LIBS)' tests/sim/bugs/run $(OUT) $(ONLY)

bench: deps                               ## measure, and write bench/RESULTS.md
	@$(PARALLEL) all $(BENCHES) $(OUT)/examples/spell/spell.so $(OUT)/tests/system/handlers/unruly.so
	bench/run $(CURDIR)/$(OUT)

# What comes first is not taken from an archive.
$(NEXT): private FIRST = $(NUMBERS)
$(NEXT): | $(NUMBERS)
$(OUT)/preforkd $(OUT)/next/preforkd: $(OUT)/daemon/main.o $(OUT)/daemon.a $(OUT)/conf.a $(OUT)/systemd.a $(OUT)/ipc.a $(OUT)/shm.a $(OUT)/base.a
	$(CXX) $(ALL_CXXFLAGS) $(HARDEN) -o $@ $(FIRST) $^ -lconfig++ -lsystemd
	@$(UNREADABLE)
SUPERVISOR := $(FRESH:%=$(OUT)/%.o) $(OUT)/supervisor/main.o $(OUT)/supervisor.a $(OUT)/worker.a $(OUT)/template.a $(OUT)/conf.a $(OUT)/ipc.a $(OUT)/shm.a $(OUT)/base.a
# (By itself, quick_fork exports what it must: from an archive nothing is exported.)
$(OUT)/preforkd-supervisor $(OUT)/next/preforkd-supervisor: $(OUT)/supervisor/quick_fork.o $(SUPERVISOR)
	$(CXX) $(ALL_CXXFLAGS) $(HARDEN) $(COMPACT) $(TOGETHER_$(BUILD)) $(STATIC_$(BUILD)) -o $@ $(FIRST) $^ -ldl
	@$(UNREADABLE)
# (Sanitizers cannot be linked statically.)
$(OUT)/preforkd-supervisor-static $(OUT)/next/preforkd-supervisor-static: $(OUT)/supervisor/without_handlers.o $(SUPERVISOR)
	$(CXX) $(ALL_CXXFLAGS) $(HARDEN) $(COMPACT) $(TOGETHER_$(BUILD)) $(if $(STATIC_$(BUILD)),-static-pie) -o $@ $(FIRST) $^
	@$(UNREADABLE)
# For programs that accept by themselves, and what their languages need beside it.
# (What stands in the place of libc's functions is not taken from an archive: from there nothing is exported.)
$(OUT)/libpreforkd.so.1 $(OUT)/next/libpreforkd.so.1: $(OUT)/worker/libpreforkd.o $(OUT)/template/sibling.o $(OUT)/template/preloaded.o $(OUT)/interpose/begin.o $(OUT)/interpose/functions.o $(OUT)/interpose/signals.o $(OUT)/interpose.a $(OUT)/worker.a $(OUT)/template.a $(OUT)/conf.a $(OUT)/shm.a $(OUT)/base.a worker/libpreforkd.map
	$(CXX) $(ALL_CXXFLAGS) $(HARDEN) $(STATIC_$(BUILD)) -shared -Wl,-soname,libpreforkd.so.1,--version-script=worker/libpreforkd.map -o $@ $(FIRST) $(filter-out %.map,$^)
$(BINDINGS): $(OUT)/%: bindings/%
	@install -D -m 644 $< $@
$(OUT)/preforkd-control $(OUT)/next/preforkd-control: $(OUT)/control/main.o $(OUT)/control.a $(OUT)/ipc.a $(OUT)/shm.a $(OUT)/base.a
	$(CXX) $(ALL_CXXFLAGS) $(HARDEN) -o $@ $(FIRST) $^ -lmicrohttpd -pthread
	@$(UNREADABLE)
$(OUT)/preforkd-log: $(OUT)/log/main.o $(OUT)/log.a $(OUT)/systemd.a $(OUT)/ipc.a $(OUT)/base.a
	$(CXX) $(ALL_CXXFLAGS) $(HARDEN) $(STATIC_$(BUILD)) -o $@ $^ -pthread
	@$(UNREADABLE)
$(OUT)/preforkctl: $(OUT)/ctl/main.o $(OUT)/ctl.a $(OUT)/base.a
	$(CXX) $(ALL_CXXFLAGS) $(HARDEN) -o $@ $^
$(OUT)/%.so: $(OUT)/%.o
	$(CXX) $(ALL_CXXFLAGS) $(HARDEN) $(COMPACT) -shared -o $@ $^ $(LIBS_$(*F))
LIBS_spell := -lhunspell
$(OUT)/tests/system/handlers/pidfds.so $(OUT)/tests/system/handlers/hostile.so $(OUT)/tests/system/handlers/trust.so: $(OUT)/ipc.a $(OUT)/base.a
# preforkd itself, but for one function.
$(IMAGES): %: %.o $(OUT)/daemon/main.o $(OUT)/daemon.a $(OUT)/conf.a $(OUT)/systemd.a $(OUT)/ipc.a $(OUT)/shm.a $(OUT)/base.a
	$(CXX) $(ALL_CXXFLAGS) -Wl,--wrap=_ZN8preforkd13ServiceStatus13feed_watchdogEv -o $@ $^ -lconfig++ -lsystemd
# (libc first: who calls nothing but exec() does not need the library for that.)
$(OUT)/tests/system/programs/%: $(OUT)/tests/system/programs/%.o $(OUT)/libpreforkd.so.1
	$(CXX) $(ALL_CXXFLAGS) -o $@ $< -l:libc.so.6 $(OUT)/libpreforkd.so.1 -Wl,-rpath,$(CURDIR)/$(OUT)
$(OUT)/unit-tests: $(patsubst %.cc,$(OUT)/%.o,$(wildcard tests/unit/*.cc)) $(OUT)/ctl.a $(OUT)/control.a $(OUT)/daemon.a $(OUT)/supervisor.a $(OUT)/log.a $(OUT)/worker.a $(OUT)/template.a $(OUT)/conf.a $(OUT)/systemd.a $(OUT)/ipc.a $(OUT)/shm.a $(OUT)/base.a
	$(CXX) $(ALL_CXXFLAGS) -o $@ $^ -lcunit -lconfig++ -lsystemd -lmicrohttpd -ldl -pthread
$(OUT)/threads: $(patsubst %,$(OUT)/%.o,tests/unit/main tests/unit/shm_threads_test worker/seat control/tick_bell) $(OUT)/shm.a $(OUT)/base.a
	$(CXX) $(ALL_CXXFLAGS) -o $@ $^ -lcunit -pthread
# The calls of libc that the simulated kernel answers (tests/sim/system_calls.cc). What the simulation has of its own comes
# first, and counts.
SIMULATED := _Fork _exit accept4 clock_gettime close epoll_create1 epoll_ctl epoll_wait fork getpid getsid getsockname getsockopt kill nanosleep ppoll raise recv sem_post sem_wait shutdown sigaction signal sigprocmask syscall wait4 waitid waitpid
SIM_OBJECTS := $(patsubst %.cc,$(OUT)/%.o,$(wildcard tests/sim/*.cc tests/sim/parts/*.cc))
SIM_ARCHIVES := $(patsubst %,$(OUT)/%.a,daemon supervisor worker template conf systemd ipc shm base)
SIM_FLAGS   := $(SIMULATED:%=-Wl,--wrap=%) -Wl,--allow-multiple-definition
SIM_LIBS    := -lconfig++ -lsystemd -ldl
$(OUT)/sim: $(SIM_OBJECTS) $(SIM_ARCHIVES)
	$(CXX) $(ALL_CXXFLAGS) $(SIM_FLAGS) -o $@ $^ $(SIM_LIBS)
# Runs the programs of any variant, and is of none itself.
build/system-tests: $(patsubst %.cc,build/driver/%.o,$(wildcard tests/system/*.cc tests/soak/*.cc base/*.cc ipc/*.cc) daemon/resolve.cc)
	$(CXX) -o $@ $^ -lcunit -lcurl -pthread
build/sweep: $(patsubst %.cc,build/driver/%.o,$(wildcard tests/sweep/*.cc base/*.cc) daemon/resolve.cc $(patsubst %,tests/system/%.cc,check client harness process))
	$(CXX) -o $@ $^ -lcunit -lcurl -lunwind-ptrace -lunwind-generic -lunwind -pthread
# Bare twice: as little as a process can be, and linked as what loads handlers.
$(OUT)/bench/bare-dynamic: $(OUT)/bench/bare.o $(OUT)/base.a
	$(CXX) $(ALL_CXXFLAGS) $(STATIC_$(BUILD)) -o $@ $^ -pthread
$(filter-out %/bare-dynamic,$(BENCHES)): $(OUT)/bench/%: $(OUT)/bench/%.o $(OUT)/base.a
	$(CXX) $(ALL_CXXFLAGS) -o $@ $^ $(if $(filter %/bare,$@),-static,) -pthread

$(OUT)/tests/fuzz/reports: $(patsubst %,$(OUT)/daemon/%.o,acting_as close_apart file_step generation generation_orphans generation_reports launch listener resolve session signal_scope socket_file socket_path trusted_path)
$(OUT)/tests/fuzz/addresses: $(OUT)/daemon/resolve.o
$(FUZZERS): %: %.o $(OUT)/control.a $(OUT)/worker.a $(OUT)/template.a $(OUT)/conf.a $(OUT)/ipc.a $(OUT)/shm.a $(OUT)/base.a
	$(CXX) $(ALL_CXXFLAGS) -fsanitize=fuzzer -o $@ -Wl,--start-group $^ -Wl,--end-group -lconfig++ -lmicrohttpd

# Each folder is an archive of all its files but the mains, so that a program takes in only what it uses.
.SECONDEXPANSION:
$(FOLDERS:%=$(OUT)/%.a): $(OUT)/%.a: $$(addprefix $(OUT)/,$$(subst .cc,.o,$$(filter-out $(MAINS),$$(wildcard $$*/*.cc))))
	@rm -f $@
	ar rcs $@ $^

$(OUT)/%.o: %.cc $(OUT)/flags
	@mkdir -p $(@D)
	$(CXX) $(ALL_CXXFLAGS) -MMD -MP -c -o $@ $<
# What nearly all of them include of the standard library is compiled once. (clang++ has another way.)
ifneq ($(BUILD),fuzz)
OURS := $(patsubst %.cc,$(OUT)/%.o,$(wildcard $(FOLDERS:%=%/*.cc)))
$(OURS): $(OUT)/base/precompiled.h.gch
$(OURS): private CXXFLAGS += -include $(OUT)/base/precompiled.h
$(OUT)/base/precompiled.h.gch: base/precompiled.h $(OUT)/flags
	@mkdir -p $(@D)
	echo '#include "$<"' >$(basename $@)
	$(CXX) $(ALL_CXXFLAGS) -MMD -MP -MF $(@:.gch=.d) -MT $@ -x c++-header -c -o $@ $(basename $@)
endif
$(OUT)/next/%.o: %.cc $(OUT)/flags
	@mkdir -p $(@D)
	$(CXX) $(ALL_CXXFLAGS) -DPREFORKD_NEXT -MMD -MP -c -o $@ $<
build/driver/%.o: %.cc build/driver/flags
	@mkdir -p $(@D)
	$(CXX) $(LANGUAGE) -Werror $(FLAGS_tests) $(COMMON) -MMD -MP -c -o $@ $<
# What nearly all of them include is compiled once: half of their time.
build/driver/common.h.gch: tests/system/suites.h build/driver/flags
	@mkdir -p $(@D)
	echo '#include "$<"' >$(basename $@)
	$(CXX) $(LANGUAGE) -Werror $(FLAGS_tests) -MMD -MP -MF $(@:.gch=.d) -MT $@ -x c++-header -c -o $@ $(basename $@)
SUITES := $(patsubst %.cc,build/driver/%.o,$(wildcard tests/system/*_test.cc tests/soak/*.cc))
$(SUITES): build/driver/common.h.gch
$(SUITES): private COMMON := -include build/driver/common.h
$(OUT)/tests/unit/%.o: private CXXFLAGS += $(FLAGS_tests) -include $(OUT)/tests/unit/common.h
$(OUT)/tests/unit/common.h.gch: private CXXFLAGS += $(FLAGS_tests)
$(OUT)/tests/unit/common.h.gch: tests/unit/unit_test.h $(OUT)/flags
	@mkdir -p $(@D)
	echo '#include "$<"' >$(basename $@)
	$(CXX) $(ALL_CXXFLAGS) -MMD -MP -MF $(@:.gch=.d) -MT $@ -x c++-header -c -o $@ $(basename $@)
$(patsubst %.cc,$(OUT)/%.o,$(wildcard tests/unit/*.cc)): $(OUT)/tests/unit/common.h.gch
# With other flags all is compiled again; with another PREFIX the one file that knows it.
$(OUT)/flags: KEPT = $(CXX) $(filter-out -DPREFORKD_PREFIX=%,$(ALL_CXXFLAGS))
build/driver/flags: KEPT = $(CXX) $(filter-out -DPREFORKD_PREFIX=%,$(LANGUAGE)) $(FLAGS_tests)
$(OUT)/prefix: KEPT = $(PREFIX)
$(OUT)/flags build/driver/flags $(OUT)/prefix: always
	@mkdir -p $(@D); echo '$(KEPT)' | cmp -s - $@ || echo '$(KEPT)' >$@
$(OUT)/daemon/paths.o: $(OUT)/prefix
-include $(shell find $(OUT) build/driver -name '*.d' 2>/dev/null)
.SECONDARY:

deps:                                     ## install from Debian what is missing; by itself: for all targets
	@command -v dpkg-query >/dev/null || { echo "not a Debian: nothing is installed by itself"; exit 0; }; \
	missing=$$(for p in $(PACKAGES); do dpkg-query -W -f='$${db:Status-Status}\n' $$p 2>&1 | grep -qx installed || echo $$p; done); \
	[ -n "$$missing" ] || exit 0; \
	echo installing from Debian: $$missing; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	$$sudo apt-get update -qq && \
	$$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null

SOURCES = $(shell find $(FOLDERS) handlers examples tests bench -name '*.cc' -o -name '*.h' -o -name '*.hpp' -o -name '*.c')
format:                                   ## lay out every source as .clang-format says
	clang-format -i $(SOURCES)
lint: deps                                ## check layout, includes, units, documents (ONLY=units picks one; ONLY=tidy: clang-tidy)
	@SOURCES='$(SOURCES)' ONLY="$(ONLY)" tests/lint $(LANGUAGE)
soak: deps                                ## break everything under load, and count what clients lose (SOAK_SHARE=0.2: a fifth; ONLY="limits": a line)
	@$(PARALLEL) all $(SYSTEM)
	tests/soak/run $(CURDIR)/$(OUT) $(if $(ONLY),"$(ONLY)")
sweep: deps                               ## make each system call of preforkd's processes fail, once in each way (SAMPLE=200 SEED=1: so many of them)
	@$(PARALLEL) all build/sweep $(OUT)/tests/system/handlers/unruly.so
	tests/sweep/run $(CURDIR)/$(OUT)
more: deps                                ## what takes long and seldom breaks: all cases of all tests, all tests with sanitizers, clang-tidy, the models, the simulation's bugs, the whole soak
	@$(MAKE) --no-print-directory test THOROUGH=1
	@$(MAKE) --no-print-directory test BUILD=asan
	@$(MAKE) --no-print-directory tsan
	@$(MAKE) --no-print-directory model
	@$(MAKE) --no-print-directory sim
	@$(MAKE) --no-print-directory sim-bugs
	@$(MAKE) --no-print-directory fuzz
	@$(MAKE) --no-print-directory lint ONLY=tidy
	@$(MAKE) --no-print-directory soak
model: deps                               ## check the models of what goes on between processes with spin (ONLY=doorbell picks one)
	@ONLY="$(ONLY)" tests/model/run

DEST  := $(DESTDIR)$(PREFIX)
UNITS := $(DEST)/lib/systemd/system
VERSION = $(shell sed -n '/kVersion/{s/.*"\(.*\)".*/\1/p;q}' base/version.cc)
# Without what a debugger alone needs: STRIP= keeps it.
STRIP ?= -s
install: all                              ## install under DESTDIR and PREFIX; an existing configuration is kept
	install $(STRIP) -D -m 711 -t $(DEST)/bin $(OUT)/preforkd
	install $(STRIP) -D -t $(DEST)/bin $(OUT)/preforkctl
	install $(STRIP) -D -m 711 -t $(DEST)/lib/preforkd $(OUT)/preforkd-supervisor $(OUT)/preforkd-supervisor-static $(OUT)/preforkd-control $(OUT)/preforkd-log
	install $(STRIP) -D -m 644 -t $(DEST)/lib/preforkd/handlers $(HANDLERS)
	install -D -m 644 -t $(DEST)/include/preforkd worker/include/preforkd/*
	install $(STRIP) -D -t $(DEST)/lib $(OUT)/libpreforkd.so.1 && ln -sf libpreforkd.so.1 $(DEST)/lib/libpreforkd.so
	install -D -m 644 -t $(DEST)/lib/preforkd/python bindings/python/preforkd.py
	install -D -m 644 -t $(DEST)/lib/preforkd/perl bindings/perl/Preforkd.pm
	for n in 1 5 7 8; do install -D -m 644 -t $(DEST)/share/man/man$$n doc/*.$$n || exit; done
	install -D -m 644 doc/preforkctl.bash $(DEST)/share/bash-completion/completions/preforkctl
	install -D -m 644 -t $(DEST)/share/doc/preforkd README.md LICENSE doc/SHM.md doc/RELIABILITY.md doc/SECURITY.md CHANGES.md doc/haproxy.cfg doc/hitch.conf systemd/pool-users.conf
	sed 's|@PREFIX@|$(PREFIX)|; s|@VERSION@|$(VERSION)|' worker/preforkd.pc.in | install -D -m 644 /dev/stdin $(DEST)/lib/pkgconfig/preforkd.pc
	find examples -type f ! -name '*.so' ! -name '*.pyc' -exec install -D -m 644 {} $(DEST)/share/doc/preforkd/{} \;
	install -D -m 644 systemd/preforkd.sysusers $(DEST)/lib/sysusers.d/preforkd.conf
	install -D -m 644 -t $(DEST)/lib/systemd/catalog systemd/preforkd.catalog
	install -D -m 644 -t $(UNITS) systemd/preforkd.socket
	sed 's|@PREFIX@|$(PREFIX)|' systemd/preforkd.service.in | install -D -m 644 /dev/stdin $(UNITS)/preforkd.service
	[ -e $(DESTDIR)/etc/preforkd/preforkd.conf ] || install -D -m 644 -t $(DESTDIR)/etc/preforkd conf/preforkd.conf

# What the assembler takes in, the compiler does not see.
$(OUT)/conf/builtin.o: conf/preforkd.conf
$(OUT)/control/dashboard.o: control/dashboard.html

clean:                                    ## remove what was built
	rm -rf build

help:                                     ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20
