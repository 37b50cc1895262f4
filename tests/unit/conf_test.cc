// conf/: what is wrong with a configuration is said in exact words and lines; what is right
// survives printing, and the way to a supervisor, unchanged.
#include <CUnit/CUnit.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <random>
#include <stdexcept>

#include "base/program_environment.h"
#include "conf/builtin.h"
#include "conf/check.h"
#include "conf/keys.h"
#include "conf/load.h"
#include "conf/pool_json.h"
#include "conf/print.h"
#include "conf/text.h"
#include "conf/user.h"

using namespace preforkd;

namespace {

void expect_text(const std::string& got, const std::string& wanted) {
  if (got != wanted) std::printf("\n  wanted: %s\n  got:    %s\n", wanted.c_str(), got.c_str());
  CU_ASSERT(got == wanted);
}

std::string errors_of(const std::string& text) {
  std::vector<std::string> errors;
  load_settings_text(text, "f", errors);
  std::string all;
  for (const std::string& error : errors) all += (all.empty() ? "" : "\n") + error;
  return all;
}

// The settings in a text that must be good.
LoadedSettings good(const std::string& text) {
  std::vector<std::string> errors;
  LoadedSettings loaded = load_settings_text(text, "f", errors);
  for (const std::string& error : errors) std::printf("\n  unexpected: %s\n", error.c_str());
  CU_ASSERT_FATAL(errors.empty());
  return loaded;
}

// A good pool on line 1, with more keys.
std::string pool(const std::string& more) {
  return R"(pools = ( { name = "a"; listen = [ "127.0.0.1:1" ]; handler = "echo"; )" + more +
         " } );";
}
const std::string kTwoPools = R"(pools = (
  { name = "a"; listen = [ "127.0.0.1:1" ]; handler = "echo"; },
  { name = "b"; listen = [ "127.0.0.1:2" ]; program = [ "/bin/cat", "-u" ]; } );)";

struct Bad {
  std::string text, errors;
};

void expect_errors(const std::vector<Bad>& rows) {
  for (const Bad& row : rows) expect_text(errors_of(row.text), row.errors);
}

void syntax() {
  expect_errors({
      {"log = {\n level = \n};", "f:3: syntax error"},
      {"log = { };\n\nlog = { };", "f:3: duplicate setting name"},
      {pool("backlog = 1;\nbacklog = 2;"), "f:2: duplicate setting name"},
      {"a = [ 1,\n\"x\" ];", "f:2: mismatched element type in array"},
      {"log = { };\nx = \"abc\n\n", "f:2: string is not closed"},
      {"log = { };\n /* abc\n\n", "f:2: comment is not closed"},
      {"# a \" \n// \" \n/* \" */ \"\\\" # /* \\\\\" = @", "f:3: syntax error"},
      {"log = { };\n@include \"/tmp\"\n", "f:2: @include is not supported"},
      {std::string("log = { };\n\0", 12), "f:2: unexpected NUL character"},
      {std::string("log = \"\n\0\";", 11), "f:2: unexpected NUL character"},
      {pool("backlog = 4294967297;"),
       "f:1: 4294967297: an integer beyond 32 bits is written with an L: 4294967297L"},
      {pool("settings = { a = -2147483648;\n b = -2147483649; c = 0x80000000; };"),
       "f:2: -2147483649: an integer beyond 32 bits is written with an L: -2147483649L\n"
       "f:2: 0x80000000: an integer beyond 32 bits is written with an L: 0x80000000L"},
      {pool("backlog = 9223372036854775808L;"),
       "f:1: 9223372036854775808: expected an integer of at most 64 bits"},
      {std::string(20000, '(').insert(0, "a = "), "f:1: memory exhausted"},
  });
}

void unknown_keys() {
  expect_errors({
      {pool("nmae = 1;"), "f:1: nmae: unknown key; did you mean \"name\"?"},
      {pool("\nlistne = 1;"), "f:2: listne: unknown key; did you mean \"listen\"?"},
      {pool("worker = { };"), "f:1: worker: unknown key; did you mean \"workers\"?"},
      {pool("workers = {\n min_sapre = 1;\n };"),
       "f:2: workers.min_sapre: unknown key; did you mean \"min_spare\"?"},
      {pool("timeouts = { connections = 1; };"),
       "f:1: timeouts.connections: unknown key here; it belongs into \"workers\""},
      {pool("min = 1;"), "f:1: min: unknown key here; it belongs into \"workers\""},
      {pool("") + "\nbacklog = 5;", "f:2: backlog: unknown key here; it belongs into \"pools\""},
      {pool("") + "\ncontrl = { };", "f:2: contrl: unknown key; did you mean \"control\"?"},
      {pool("") + "\nlog = { colour = true; };", "f:2: log.colour: unknown key"},
      {pool("x = 1;"), "f:1: x: unknown key"},
      {pool("tcp = {\n no_delay = true; };"),
       "f:2: tcp.no_delay: unknown key; did you mean \"nodelay\"?"},
      {pool("nodelay = true;"), "f:1: nodelay: unknown key here; it belongs into \"tcp\""},
      {pool("rlimits = { nofiles = 1; };"),
       "f:1: rlimits.nofiles: unknown key; did you mean \"nofile\"?"},
      {pool("core = 0;"), "f:1: core: unknown key here; it belongs into \"rlimits\""},
      {pool("enviroment = { };"), "f:1: enviroment: unknown key; did you mean \"environment\"?"},
  });
}

void types_and_ranges() {
  expect_errors({
      {pool("backlog = 0;"), "f:1: backlog: expected an integer from 1 to 2147483647, not 0"},
      {pool("backlog = 2147483648L;"),
       "f:1: backlog: expected an integer from 1 to 2147483647, not 2147483648"},
      {pool("backlog = 1.0;"), "f:1: backlog: expected an integer from 1 to 2147483647, not 1.0"},
      {pool("backlog = \"9\";"),
       "f:1: backlog: expected an integer from 1 to 2147483647, not \"9\""},
      {pool("workers = {\n min = -1;\n max = 65537;\n starting = true; };"),
       "f:2: workers.min: expected an integer from 0 to 65536, not -1\n"
       "f:3: workers.max: expected an integer from 1 to 65536, not 65537\n"
       "f:4: workers.starting: expected an integer from 1 to 65536, not true"},
      {pool("workers = { connections = 4294967296L; };"),
       "f:1: workers.connections: expected an integer from 0 to 4294967295, not 4294967296"},
      {pool("workers = { shrink_after = 0; };"),
       "f:1: workers.shrink_after: expected seconds from 0.01 to 315360000, not 0"},
      {pool("timeouts = { drain = -0.5;\n start = 1e999;\n connection = 1e9; };"),
       "f:1: timeouts.drain: expected seconds from 0 to 315360000, not -0.5\n"
       "f:2: timeouts.start: expected seconds from 0.01 to 315360000, not inf\n"
       "f:3: timeouts.connection: expected seconds from 0 to 315360000, not 1e+09"},
      {pool("tcp = { nodelay = 1;\n keepalive = true;\n reuse_port = \"yes\";\n defer_accept = -1; "
            "};"),
       "f:1: tcp.nodelay: expected true or false, not 1\n"
       "f:2: tcp.keepalive: expected an integer from 0 to 32767, not true\n"
       "f:3: tcp.reuse_port: expected true or false, not \"yes\"\n"
       "f:4: tcp.defer_accept: expected an integer from 0 to 32767, not -1"},
      {pool("nice = 20;"), "f:1: nice: expected an integer from -20 to 19, not 20"},
      {pool("nice = -21;"), "f:1: nice: expected an integer from -20 to 19, not -21"},
      {pool("oom_score_adjust = 1001;"),
       "f:1: oom_score_adjust: expected an integer from -1000 to 1000, or \"\", not 1001"},
      {pool("oom_score_adjust = \"low\";"),
       "f:1: oom_score_adjust: expected an integer from -1000 to 1000, or \"\", not \"low\""},
      {pool("rlimits = { nofile = -2;\n core = \"infinite\";\n cpu = 1.5; };"),
       "f:1: rlimits.nofile: expected an integer of at least 0, \"unlimited\" or \"\", not -2\n"
       "f:2: rlimits.core: expected an integer of at least 0, \"unlimited\" or \"\", not "
       "\"infinite\"\n"
       "f:3: rlimits.cpu: expected an integer of at least 0, \"unlimited\" or \"\", not 1.5"},
      {pool("environment = \"A=1\";"),
       "f:1: environment: expected a group of strings, { NAME = \"value\"; ... }, not \"A=1\""},
      {pool("environment = { A = 1;\n A-B = \"x\";\n C = \"\\xff\"; };"),
       "f:1: environment.A: expected a string, not 1\n"
       "f:2: environment: \"A-B\": expected a name of letters, digits and _\n"
       "f:3: environment.C: expected UTF-8"},
      {pool("working_directory = \"srv\";"),
       "f:1: working_directory: \"srv\": expected an absolute path or \"\""},
      {pool("timeouts = 5;"), "f:1: timeouts: expected a group, { ... }, not 5"},
      {pool("workers = ( );"), "f:1: workers: expected a group, { ... }, not a list"},
      {pool("settings = [ ];"), "f:1: settings: expected a group, { ... }, not an array"},
      {pool("settings = { a = (\n 1e999 ); };"),
       "f:2: settings.a[0]: expected a number that a double can hold, not inf"},
      {pool("settings = { a = { b = \"\\xff\"; }; };"), "f:1: settings.a.b: expected UTF-8"},
      {pool("user = 0;"), "f:1: user: expected a string, not 0"},
      {pool("user = \"\\xc3\";"), "f:1: user: expected UTF-8"},
      {pool("") + "log = { level = \"loud\"; };",
       "f:1: log.level: \"loud\": expected error, warning, notice, info or debug"},
      {pool("") + "control = { web = \"[nope]:1\"; };",
       "f:1: control.web: \"[nope]:1\": no IPv6 address stands in the brackets"},
      {pool("") + "control = { web = \"localhost:99999\"; };",
       "f:1: control.web: \"localhost:99999\": the port must be a number from 0 to 65535"},
      {pool("") + "control = { hosts = \"a\"; };",
       "f:1: control.hosts: expected an array of 0 to 64 strings, not \"a\""},
      {pool("") + "control = { hosts = [ \"a.example\", \"b:80\" ]; };",
       "f:1: control.hosts: \"b:80\": expected a name as in \"stats.example.org\", without scheme "
       "and port"},
      {pool("") + "control = { socket = \"run/a\"; };",
       "f:1: control.socket: \"run/a\": expected an absolute path or \"\""},
      {pool("") + "control = { socket = \"/" + std::string(107, 'a') + "\"; };",
       "f:1: control.socket: \"/" + std::string(107, 'a') +
           "\": a Unix socket's path has at most 107 characters"},
  });
  for (const std::string& host :
       {std::string(), std::string("."), std::string("a."), std::string(".a"), std::string("a..b"),
        std::string("a b"), std::string("http://a"), std::string("[::1]"), std::string("*.a"),
        std::string(254, 'a')})
    expect_text(errors_of(pool("") + "control = { hosts = [ \"" + host + "\" ]; };"),
                "f:1: control.hosts: \"" + host +
                    "\": expected a name as in \"stats.example.org\", without scheme and port");
  for (const std::string web : {"nope", "a b:1", "unix:/x", "unix:", "systemd:x", "systemd:"})
    expect_text(errors_of(pool("") + "control = { web = \"" + web + "\"; };"),
                "f:1: control.web: \"" + web + "\": expected \"host:port\", \"[v6]:port\" or \"\"");
}

void pools() {
  const std::string sshd =
      "pools = ( { name = \"a\"; listen = [ \"*:1\" ]; program = [ \"/sshd\" ]; ";
  const std::string none = "f:1: pools: expected at least one pool";
  expect_errors({
      {"", none},
      {"log = { };", none},
      {"\npools = ( );", "f:2: pools: expected at least one pool"},
      {"pools = { };", "f:1: pools: expected a list of groups, ( { ... }, ... ), not a group"},
      {"pools = [ 1 ];", "f:1: pools: expected a list of groups, ( { ... }, ... ), not an array"},
      {"pools = (\n 5 );", "f:2: pools: expected a group, { ... }, not 5"},
      {"pools = (\n { } );",
       "f:2: name: missing; every pool needs one\n"
       "f:2: listen: missing; every pool needs one\n"
       "f:2: handler: missing; every pool needs a handler, a program or serve"},
      {"pools = ( { name = \"a\";\n listen = [ ];\n program = [ ]; } );",
       "f:2: listen: expected an array of 1 to 64 strings, not 0\n"
       "f:3: program: expected an array of 1 to 4096 strings, not 0"},
      {pool("success = [ 0 ];"), ""},
      {pool("success = [ 1 ];"), "f:1: success: is for a pool with a program"},
      {sshd + "success = [ ]; } );",
       "f:1: success: expected an array of 1 to 256 exit statuses, not 0"},
      {sshd + "success = 0; } );",
       "f:1: success: expected an array of 1 to 256 exit statuses, not 0"},
      {sshd + "success = [ 256 ]; } );",
       "f:1: success: expected an exit status, 0 to 255, not 256"},
      {sshd + "success = ( 0, -1, \"x\" ); } );",
       "f:1: success: expected an exit status, 0 to 255, not -1\n"
       "f:1: success: expected an exit status, 0 to 255, not \"x\""},
      {pool("program = [ \"/bin/cat\" ];"),
       "f:1: program: a pool has a handler, a program or serve: one of them"},
      {"pools = ( { name = \"a\"; listen = [ \"*:1\" ];\n handler = \"\"; } );",
       "f:2: handler: missing; every pool needs a handler, a program or serve"},
      {"pools = ( { name = \"a\"; listen = [ \"*:1\" ];\n handler = 5; } );",
       "f:2: handler: expected a string, not 5"},
      {"pools = ( { name = \"a\"; listen = [ \"*:1\" ];\n program = [ \"cat\", \"-u\" ]; } );",
       "f:2: program: \"cat\": expected an absolute path"},
      {"pools = ( { name = \"a\"; listen = \"*:1\"; handler = \"echo\"; } );",
       "f:1: listen: expected an array of 1 to 64 strings, not \"*:1\""},
      {"pools = ( { name = \"a\"; listen = [ \"*:1\",\n \"x\",\n \"::1:5\" ]; handler = \"echo\"; "
       "} );",
       "f:2: listen: \"x\": expected \"host:port\", \"[v6]:port\", \"unix:/path\" or "
       "\"systemd:FDNAME\"\n"
       "f:3: listen: \"::1:5\": an IPv6 address is written in brackets: \"[::1]:5\""},
  });
  for (const char* name :
       {"", "A", "-a", "a b", "\u00e4", "a/b", "a12345678901234567890123456789012"}) {
    expect_text(
        errors_of("pools = ( { listen = [ \"*:1\" ]; handler = \"x\";\n name = \"" +
                  std::string(name) + "\"; } );"),
        "f:2: name: \"" + std::string(name) +
            "\": expected 1 to 32 characters of a-z 0-9 _ . - that begin with a letter or a "
            "digit");
  }
}

void environments() {
  auto serving = [](const std::string& how, const std::string& variables) {
    return "pools = ( { name = \"a\"; listen = [ \"*:1\" ]; " + how + "\n environment = { " +
           variables + " }; } );";
  };
  const std::string program = "program = [ \"/bin/cat\" ];", serve = "serve = [ \"app\" ];";
  const std::string of_connections = "PROTO = \"x\";\n A = \"b\";\n TCPREMOTEIP = \"6.6.6.6\";",
                    of_serving = "PREFORKD_LIBRARY = \"x\";\n PREFORKD_WORKER = \"\";",
                    of_paths = "PYTHONPATH = \"/x\"; PERL5LIB = \"/x\"; PATH = \"/bin\";";
  const std::string reason = ": cannot be set; a program has it from preforkd only";
  const std::string refused =
      "f:2: environment.PROTO" + reason + "\nf:4: environment.TCPREMOTEIP" + reason;
  expect_errors({
      {serving(program, of_connections), refused},
      {serving(serve, of_connections), refused},
      {serving("handler = \"echo\";", of_connections), ""},
      {serving("program = 5;", of_connections),
       "f:1: program: expected an array of 1 to 4096 strings, not 5\n" + refused},
      {serving(serve, of_serving), "f:2: environment.PREFORKD_LIBRARY" + reason +
                                       "\nf:3: environment.PREFORKD_WORKER" + reason},
      {serving(program, of_serving), ""},
      {serving(serve, of_paths), ""},
      {serving(program, of_paths), ""},
  });
  for (const std::string_view name : kProgramVariables)
    expect_text(errors_of(serving(program, std::string(name) + " = \"\";")),
                "f:2: environment." + std::string(name) + reason);
}

void contradictions() {
  auto second = [](const std::string& name, const std::string& listen) {
    return "pools = (\n { name = \"a\"; listen = [ \"127.0.0.1:1\" ]; handler = \"x\"; },\n { name "
           "= \"" +
           name + "\";\n listen = [ " + listen + " ]; handler = \"x\"; } );";
  };
  auto taken = [](const std::string& address) {
    return "f:4: listen: \"" + address + "\" is listened on already by line 2";
  };
  expect_errors({
      {pool("\nworkers = { min = 5; max = 4; };"), "f:2: workers: min 5 is above max 4"},
      {pool("workers = { min_spare = 9; };"), "f:1: workers: min_spare 9 is above max_spare 8"},
      {pool("workers = { min = 300; max = \"x\"; };"),
       "f:1: workers.max: expected an integer from 1 to 65536, not \"x\""},
      {pool("workers = { min = 9; max = 3; min_spare = 9; max_spare = 2; };"),
       "f:1: workers: min 9 is above max 3\n"
       "f:1: workers: min_spare 9 is above max 3\n"
       "f:1: workers: min_spare 9 is above max_spare 2"},
      {pool("\nworkers = {\n min = \"x\"; max = 3; min_spare = 2; max_spare = 1;\n max_age = 0.5; "
            "};"),
       "f:2: workers: min_spare 2 is above max_spare 1\n"
       "f:3: workers.min: expected an integer from 0 to 65536, not \"x\"\n"
       "f:4: workers.max_age: expected 0 or at least 1 second"},
      {second("a", "\"127.0.0.1:2\""), "f:3: name: \"a\" is the name of the pool on line 2"},
      {second("b", "\"127.0.0.1:1\""), taken("127.0.0.1:1")},
      {second("b", "\"127.0.0.1:0001\""), taken("127.0.0.1:0001")},
      {second("b", "\"127.1:1\""), taken("127.1:1")},
      {second("b", "\"[::1]:2\",\n \"[0:0::1]:2\""),
       "f:5: listen: \"[0:0::1]:2\" is listened on already by line 4"},
      {second("b", "\"*:2\", \"0.0.0.0:2\""),
       "f:4: listen: \"0.0.0.0:2\" is listened on already by line 4"},
      {second("b", "\"unix:/a/b\", \"unix:/a/./b\""),
       "f:4: listen: \"unix:/a/./b\" is listened on already by line 4"},
      {second("b", "\"systemd:x\", \"systemd:x\""),
       "f:4: listen: \"systemd:x\" is listened on already by line 4"},
      {second("b", "\"Example.org:2\", \"example.ORG:2\""),
       "f:4: listen: \"example.ORG:2\" is listened on already by line 4"},
      {pool("") + "\ncontrol = { web = \"127.0.0.1:01\"; };",
       "f:2: control.web: \"127.0.0.1:01\" is listened on already by line 1"},
      {second("b", "\"unix:/c/../a\"") + "\ncontrol = { socket = \"/a\"; };",
       "f:5: control.socket: \"/a\" is listened on already by line 4"},
      {second("b", "\"127.0.0.1:9707\""),
       "f:4: listen: \"127.0.0.1:9707\" is the default of control.web; set that to another or "
       "\"\""},
      {second("b", "\"127.0.0.1:0\", \"127.0.0.1:0\", \"127.0.0.2:1\", \"unix:@/a\", \"unix:/a\""),
       ""},
  });
}

// What the file takes, the daemon takes from control, and nothing else.
void ranges_of_limits() {
  const Limits widest = {65536, 65536, 65536, 65536, 315360000 * kSecond};
  expect_text(out_of_range({0, 1, 0, 0, 10 * kMillisecond}), "");
  expect_text(out_of_range(widest), "");
  expect_text(out_of_range({.max = 0}), "max");
  expect_text(out_of_range({.shrink_after = 10 * kMillisecond - 1}), "shrink_after");
  expect_text(out_of_range({.shrink_after = 315360001 * kSecond}), "shrink_after");
  for (uint32_t Limits::*limit :
       {&Limits::min, &Limits::max, &Limits::min_spare, &Limits::max_spare}) {
    Limits more = widest;
    ++(more.*limit);
    CU_ASSERT(!out_of_range(more).empty());
  }
}

void users() {
  expect_errors({
      {pool("\nuser = \"no such user\";"), "f:2: user: there is no user \"no such user\""},
      {pool("\ngroup = \"no such group\";"), "f:2: group: there is no group \"no such group\""},
      {pool("\nuser = \"no such user\";\ngroup = 5;"),
       "f:2: user: there is no user \"no such user\"\n"
       "f:3: group: expected a string, not 5"},
      {pool("\nuser = 5;\ngroup = \"no such group\";"),
       "f:2: user: expected a string, not 5\n"
       "f:3: group: there is no group \"no such group\""},
      {pool("\nuser = \"no such user\";\ngroup = \"no such group\";"),
       "f:2: user: there is no user \"no such user\"\n"
       "f:3: group: there is no group \"no such group\""},
      {pool("") + "\ncontrol = { group = \"no such group\"; };",
       "f:2: control.group: there is no group \"no such group\""},
  });
  constexpr uid_t kNameless = 2000000123;
  std::string error;
  auto user = effective_user("", "", error, kNameless);
  CU_ASSERT_FATAL(user.has_value());
  CU_ASSERT(user->uid == kNameless && user->gid == getegid() && !user->change);
  expect_text(user->name, "2000000123");
  CU_ASSERT(!effective_user("root", "", error, kNameless));
  expect_text(error, "only root can become \"root\", and this is \"2000000123\"");

  user = effective_user("root", "", error, 0);
  CU_ASSERT(user && user->uid == 0 && user->gid == 0 && user->change && user->name == "root");
  user = effective_user("", "root", error, 0);
  CU_ASSERT_FATAL(user.has_value());
  CU_ASSERT(user->uid != 0 && user->gid == 0 && user->change);
  CU_ASSERT(user->name == "preforkd" || user->name == "nobody");
  user = effective_user("", "", error);
  CU_ASSERT(user && user->change == (geteuid() == 0));
}

void several_at_once() {
  expect_text(errors_of(R"(control = { web = 5; };
pools = (
  { name = "a"; listen = [ "x" ]; handler = "echo"; colour = 1; },
  { name = "a"; listen = [ "127.0.0.1:2" ];
    workers = { min = 9;
                max = 4; };
    user = "no such user"; }
);
log = { level = 5; };)"),
              "f:1: control.web: expected a string, not 5\n"
              "f:3: listen: \"x\": expected \"host:port\", \"[v6]:port\", \"unix:/path\" or "
              "\"systemd:FDNAME\"\n"
              "f:3: colour: unknown key\n"
              "f:4: handler: missing; every pool needs a handler, a program or serve\n"
              "f:4: name: \"a\" is the name of the pool on line 3\n"
              "f:5: workers: min 9 is above max 4\n"
              "f:7: user: there is no user \"no such user\"\n"
              "f:9: log.level: expected a string, not 5");
}

void files() {
  char folder[] = "/tmp/preforkd-conf-XXXXXX";
  CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(folder));
  std::string file = std::string(folder) + "/a.conf";
  std::vector<std::string> errors;
  load_settings(file, errors);
  load_settings(folder, errors);
  std::ofstream(file) << kTwoPools << "\nlog = 1;";
  LoadedSettings loaded = load_settings(file, errors);
  load_settings("/dev/zero", errors);
  CU_ASSERT_EQUAL_FATAL(errors.size(), 4);
  expect_text(errors[0], "open " + file + ": No such file or directory");
  expect_text(errors[1], "read " + std::string(folder) + ": Is a directory");
  expect_text(errors[2], file + ":4: log: expected a group, { ... }, not 1");
  expect_text(errors[3], "read /dev/zero: larger than 16 MiB");
  CU_ASSERT_EQUAL(loaded.settings.pools.size(), 2);
  expect_text(loaded.where(0, "handler"), file + ":2");
  expect_text(loaded.where(1, "program"), file + ":3");
  expect_text(loaded.where(1, "workers.max"), file + ":3");
  unlink(file.c_str());
  rmdir(folder);
}

void what_is_right() {
  Settings settings = good(kTwoPools).settings;
  CU_ASSERT_EQUAL_FATAL(settings.pools.size(), 2);
  CU_ASSERT(settings.pools[1].program == (std::vector<std::string>{"/bin/cat", "-u"}));

  CU_ASSERT(settings.pools[1].success == std::vector<uint32_t>{0});
  const std::string sshd =
      "pools = ( { name = \"a\"; listen = [ \"*:1\" ]; program = [ \"/sshd\" ]; ";
  CU_ASSERT(good(sshd + "success = [ 0, 255 ]; } );").settings.pools[0].success ==
            (std::vector<uint32_t>{0, 255}));
  CU_ASSERT(good(sshd + "success = ( 7L ); } );").settings.pools[0].success ==
            std::vector<uint32_t>{7});

  PoolSettings p = good(pool(R"(backlog = 128L; workers = { shrink_after = 2; min = 0; };
      timeouts = { connection = 1.5; drain = 1e-9; start = 315360000; };
      settings = { z = 1; a = ( 1.0, "x", [ true ], { } ); big = 5000000000L; n = { e = ( ); }; };)"))
                       .settings.pools.at(0);
  CU_ASSERT(p.backlog == 128 && p.limits.min == 0 && p.limits.shrink_after == 2 * kSecond);
  CU_ASSERT(p.connection_timeout == kSecond * 3 / 2 && p.drain_timeout == kMicrosecond);
  CU_ASSERT(p.start_timeout == 315360000 * kSecond);
  expect_text(p.settings, R"({"z":1,"a":[1.0,"x",[true],{}],"big":5000000000,"n":{"e":[]}})");
  p = good(pool(R"(working_directory = "/srv"; environment = { A = "b c"; B_2 = ""; }; nice = -5;
      oom_score_adjust = -17;
      tcp = { nodelay = true; keepalive = 60; defer_accept = 5; fast_open = 7; reuse_port = true;
        freebind = true; };
      rlimits = { core = 0; nofile = 1024; as = -1; stack = "unlimited"; cpu = "";
                  data = 9223372036854775807L; };)"))
          .settings.pools.at(0);
  CU_ASSERT(p.process.working_directory == "/srv" && p.process.nice == -5 &&
            p.process.oom_score_adjust.value == -17);
  CU_ASSERT(
      !good(pool("oom_score_adjust = \"\";")).settings.pools[0].process.oom_score_adjust.is_set());
  CU_ASSERT(p.process.environment == (Environment{{"A", "b c"}, {"B_2", ""}}));
  CU_ASSERT(p.tcp == (TcpOptions{true, 60, 5, 7, true, true}));
  const ResourceLimits& limits = p.process.limits;
  CU_ASSERT(limits.core.value == 0 && limits.nofile.value == 1024);
  CU_ASSERT(limits.as.value == ResourceLimit::kUnlimited && limits.stack == limits.as);
  CU_ASSERT(!limits.cpu.is_set() && !limits.fsize.is_set() && limits.data.value == INT64_MAX);
  good(pool("workers = { connections = 4294967295L; }; group = \"\"; user = \"\";") +
       "control = { web = \"\"; socket = \"/run/a.sock\"; };");
}

void builtin_default() {
  std::vector<std::string> errors;
  std::string text(builtin_conf_text());
  LoadedSettings loaded = load_settings_text(text, std::string(kBuiltinName), errors);
  CU_ASSERT_FATAL(errors.empty());
  Settings expected;
  expected.pools.emplace_back();
  expected.pools[0].name = expected.pools[0].handler = "echo";
  expected.pools[0].listen = {"127.0.0.1:7007"};
  CU_ASSERT(loaded.settings == expected);
  for (const Key& key : keys()) {
    std::string path = path_of(key.section, key.name);
    bool written = loaded.lines.has(path) || loaded.pool_lines[0].has(path) || path == "program" ||
                   path == "serve";
    bool explained = text.find(key.help) != text.npos;
    if (!written || !explained) std::printf("\n  %s is not in conf/preforkd.conf\n", path.c_str());
    CU_ASSERT(written && explained);
  }
}

void expect_round_trip(const Settings& settings) {
  std::string printed = print_settings(settings);
  std::vector<std::string> errors;
  Settings again = load_settings_text(printed, "printed", errors).settings;
  for (const std::string& error : errors) std::printf("\n  unexpected: %s\n", error.c_str());
  CU_ASSERT(errors.empty() && again == settings);
  for (const PoolSettings& p : settings.pools) CU_ASSERT(pool_from_json(pool_to_json(p)) == p);
}

// Text that is hard to print: quotes, backslashes, escapes that are none, controls, UTF-8.
std::string hard_text(std::mt19937& random) {
  static const char* const kPieces[] = {
      "\"", "\\",   "\n", "\t",           "\x01", "\x1f", "\x7f",
      "\r", "\\x4", "a",  "\u00e4\u20ac", "#",    "/*",   "$",
      "//", " ",    "9",  "\U0001f600",   "\"\"", "\\\"", "@include \""};
  std::string out;
  for (auto left = random() % 9; left > 0; --left) out += kPieces[random() % std::size(kPieces)];
  return out;
}

double hard_number(std::mt19937& random) {
  static const double kNumbers[] = {
      0.0,      -0.0,        0.1, 1e22, 1e-7, 4.9406564584124654e-324, 1.7976931348623157e308,
      -1.0 / 3, 123456789.0, 1e15};
  return kNumbers[random() % std::size(kNumbers)] * (random() % 2 ? 1.0 : 0.7);
}

void printed_reads_back() {
  std::mt19937 random(1);
  for (int round = 0; round < 300; ++round) {
    Settings settings = good(kTwoPools).settings;
    settings.log_level = "debug";
    settings.control.web = "";
    settings.control.hosts = {"a.example", "B_c"};
    PoolSettings &a = settings.pools[0], &b = settings.pools[1];
    a.handler = "h" + hard_text(random);
    b.program = {"/" + hard_text(random), hard_text(random), ""};
    b.success = {255, 0, 7};
    a.settings = good(pool("settings = { t = " + quote(hard_text(random)) + "; f = ( " +
                           float_text(hard_number(random)) + ", { i = " +
                           integer_text(static_cast<int64_t>(random() * 4294967296ULL * 2)) +
                           "; x-y_*1 = [ true, false ]; } ); };"))
                     .settings.pools[0]
                     .settings;
    a.limits = {0, 65536, 0, static_cast<uint32_t>(random() % 65537), 0};
    a.limits.shrink_after = time_from_seconds(0.01 + random() / 13.7);
    a.drain_timeout = time_from_seconds(random() / 1e9);
    a.connections = static_cast<uint32_t>(random());
    a.process.working_directory = "/" + hard_text(random);
    a.process.environment = {{"A", hard_text(random)}, {"b_2", hard_text(random)}};
    a.process.nice = static_cast<int32_t>(random() % 40) - 20;
    a.process.oom_score_adjust.value = static_cast<int32_t>(random() % 2001) - 1000;
    a.process.limits.data.value = random() * uint64_t{2147483648};
    a.process.limits.core.value = random() % 2 ? ResourceLimit::kUnlimited : random();
    b.tcp = {random() % 2 == 0, static_cast<uint32_t>(random() % 32768), 1,
             static_cast<uint32_t>(random() % 2147483648), random() % 2 == 0};
    expect_round_trip(settings);
  }
  std::string deep = std::string(2000, '(') + std::string(2000, ')');
  expect_round_trip(good(pool("settings = { deep = " + deep + "; };")).settings);
}

void json_refuses() {
  std::string json = pool_to_json(good(kTwoPools).settings.pools[0]);
  auto refused = [](const std::string& text) {
    try {
      pool_from_json(text);
      return std::string("accepted");
    } catch (const std::runtime_error& e) {
      return std::string(e.what());
    }
  };
  auto with = [&](const std::string& from, const std::string& to) {
    std::string text = json;
    CU_ASSERT_FATAL(text.find(from) != text.npos);
    return text.replace(text.find(from), from.size(), to);
  };
  expect_text(refused(""), "read pool settings: not a JSON object");
  expect_text(refused("[]"), "read pool settings: not a JSON object");
  expect_text(refused("{}"), "read pool settings: name: missing");
  expect_text(refused(json.substr(0, json.size() - 1)), "read pool settings: not a JSON object");
  expect_text(refused(with("{", "{\"more\":1,")), "read pool settings: unknown key");
  expect_text(refused(with("\"backlog\":4096", "\"backlog\":4294967296")),
              "read pool settings: backlog: wrong type");
  expect_text(refused(with("\"backlog\":4096", "\"backlog\":-1")),
              "read pool settings: backlog: wrong type");
  expect_text(refused(with("\"backlog\":4096", "\"backlog\":1.5")),
              "read pool settings: backlog: wrong type");
  expect_text(refused(with("[\"127.0.0.1:1\"]", "[\"127.0.0.1:1\",2]")),
              "read pool settings: listen: wrong type");
  expect_text(refused(with("[\"127.0.0.1:1\"]", "5")), "read pool settings: listen: wrong type");
  expect_text(refused(with("\"tcp.nodelay\":false", "\"tcp.nodelay\":0")),
              "read pool settings: tcp.nodelay: wrong type");
  for (const char* nice : {"1.5", "4294967296", "-4294967296", "true", "\"1\""})
    expect_text(refused(with("\"nice\":0", std::string("\"nice\":") + nice)),
                "read pool settings: nice: wrong type");
  for (const char* environment : {"[]", "{\"A\":1}", "\"A=1\""})
    expect_text(refused(with("\"environment\":{}", std::string("\"environment\":") + environment)),
                "read pool settings: environment: wrong type");
  expect_text(refused(with("\"rlimits.nofile\":", "\"rlimits.nofile\":-")),
              "read pool settings: rlimits.nofile: wrong type");
  expect_text(refused(with("\"echo\"", "{}")), "read pool settings: handler: wrong type");
}

// Whatever the text, it loads and survives printing, or at least one message says why not.
void expect_verdict(const std::string& text) {
  std::vector<std::string> errors;
  Settings settings = load_settings_text(text, "f", errors).settings;
  if (errors.empty()) expect_round_trip(settings);
  for (const std::string& error : errors) CU_ASSERT(error.starts_with("f:") && error.size() > 5);
}

void mutations() {
  const std::string shipped(builtin_conf_text());
  for (size_t size = 0; size < shipped.size(); ++size) expect_verdict(shipped.substr(0, size));
  std::mt19937 random(20240229);
  const std::string bytes = "\"\\{}()[]=;:,.#/*@+-0123456789eLx \n\t\xff" + std::string(1, '\0');
  for (int round = 0; round < 2000; ++round) {
    std::string text = shipped;
    for (auto left = 1 + random() % 4; left > 0; --left) {
      size_t at = random() % text.size();
      char byte = bytes[random() % bytes.size()];
      switch (random() % 3) {
        case 0:
          text[at] = byte;
          break;
        case 1:
          text.insert(at, 1, byte);
          break;
        default:
          text.erase(at, 1 + random() % 8);
      }
    }
    expect_verdict(text);
  }
}

}  // namespace

void add_conf_tests() {
  static const struct {
    const char* name;
    void (*run)();
  } kTests[] = {
      {"syntax errors", syntax},
      {"unknown keys", unknown_keys},
      {"types and ranges", types_and_ranges},
      {"pools", pools},
      {"environments", environments},
      {"contradictions", contradictions},
      {"ranges of limits", ranges_of_limits},
      {"users and groups", users},
      {"several errors at once, by line", several_at_once},
      {"files", files},
      {"what is right is taken as meant", what_is_right},
      {"the shipped configuration is the default", builtin_default},
      {"what is printed reads back", printed_reads_back},
      {"a supervisor's JSON refuses nonsense", json_refuses},
      {"prefixes and mutations of the shipped configuration", mutations},
  };
  CU_pSuite suite = CU_add_suite("conf", nullptr, nullptr);
  for (const auto& test : kTests) CU_add_test(suite, test.name, test.run);
}
