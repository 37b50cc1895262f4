// Wrong configurations: refused with 78 before anything listens, each error on a line of its own.
// The test itself listens wherever these configurations want to: a preforkd that tried to bind before
// it had checked everything would say so, and stay.
#include <sys/stat.h>

#include <filesystem>

#include "tests/system/conditions.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

struct Wrong {
  const char* what;
  std::string config;               // "@PORT@" is the taken port
  std::vector<std::string> errors;  // what follows "FILE:"
};

std::string one_pool(const std::string& rest) {
  return "control = { web = \"\"; };\npools = ( { name = \"a\"; listen = [ \"127.0.0.1:@PORT@\" "
         "];\n" +
         rest + " } );\n";
}

std::string replaced(std::string text, const std::string& name, const std::string& value) {
  for (size_t at; (at = text.find(name)) != text.npos;) text.replace(at, name.size(), value);
  return text;
}

void expect_refused(const Wrong& wrong) {
  TakenPort port;
  const std::string number = std::to_string(port.number());
  Server server(replaced(wrong.config, "@PORT@", number), {.wait_until_ready = false});
  const std::string file = server.folder().file("preforkd.conf");
  std::string expected;
  for (const std::string& error : wrong.errors) {
    std::string line = server.folder().expand(replaced(error, "@PORT@", number));
    expected += "preforkd: error: " + file + ":" +
                replaced(line, "@BUILT@", std::filesystem::absolute(built(""))) + "\n";
  }
  const std::string what = wrong.what;
  expect_equal(what + ": exit code", server.wait_exit(), 78);
  expect_equal(what + ": log", server.log(), expected);
  expect(!std::filesystem::exists(server.folder().file("run")), what + ": no runtime directory");
  expect_no_segment_left();
}

void expect_all_refused(const std::vector<Wrong>& all) {
  for (const Wrong& wrong : all) expect_refused(wrong);
}

void the_trap_works() {
  TakenPort port;
  Server server({PoolText{.listen = port.quoted()}}, {.wait_until_ready = false});
  server.wait_for_log("bind " + port.address() + ": Address already in use");
  expect(!server.has_exited(), "it waits for the address");
}

void syntax_and_keys() {
  expect_all_refused({
      {"syntax", "pools = ( { name = \"a\";\n listen = [ };", {"2: syntax error"}},
      {"a file of nothing", "", {"1: pools: expected at least one pool"}},
      {"no pools", "log = { level = \"info\"; };", {"1: pools: expected at least one pool"}},
      {"an empty list of pools", "\npools = ();", {"2: pools: expected at least one pool"}},
      {"unknown key",
       one_pool("handler = \"echo\"; backlogg = 3;"),
       {"3: backlogg: unknown key; did you mean \"backlog\"?"}},
      {"unknown section",
       "controll = { };\n" + one_pool("handler = \"echo\";"),
       {"1: controll: unknown key; did you mean \"control\"?"}},
      {"wrong type",
       one_pool("handler = \"echo\"; backlog = \"many\";"),
       {"3: backlog: expected an integer from 1 to 2147483647, not \"many\""}},
      {"out of range",
       one_pool("handler = \"echo\"; workers = { min = -1;\nmax = 0; };"),
       {"3: workers.min: expected an integer from 0 to 65536, not -1",
        "4: workers.max: expected an integer from 1 to 65536, not 0"}},
      {"min above max",
       one_pool("handler = \"echo\"; workers = { min = 9; max = 3; };"),
       {"3: workers: min 9 is above max 3"}},
      {"no address",
       "pools = ( { name = \"a\"; listen = [ \"here\" ]; handler = \"echo\"; } );",
       {"1: listen: \"here\": expected \"host:port\", \"[v6]:port\", \"unix:/path\" or "
        "\"systemd:FDNAME\""}},
  });
}

void pools_that_collide() {
  const std::string first =
      "pools = ( { name = \"a\"; listen = [ \"127.0.0.1:@PORT@\" ]; handler = \"echo\"; },\n";
  expect_all_refused({
      {"two of one name",
       first + "{ name = \"a\"; listen = [ \"127.0.0.1:1\" ]; handler = \"echo\"; } );",
       {"2: name: \"a\" is the name of the pool on line 1"}},
      {"two on one address",
       first + "{ name = \"b\"; listen = [ \"127.0.0.1:@PORT@\" ]; handler = \"echo\"; } );",
       {"2: listen: \"127.0.0.1:@PORT@\" is listened on already by line 1"}},
      {"two on one address, written differently",
       first + "{ name = \"b\"; listen = [ \"127.1:@PORT@\" ]; handler = \"echo\"; } );",
       {"2: listen: \"127.1:@PORT@\" is listened on already by line 1"}},
  });
}

void handlers_that_are_none() {
  TestFolder folder;
  auto handler = [](const std::string& path) { return one_pool("handler = \"" + path + "\";"); };
  const std::string text = folder.write("text.so", std::string(1000, '#'));
  const std::string pipe = folder.file("pipe.so");
  expect(mkfifo(pipe.c_str(), 0644) == 0, "make a pipe");
  expect_all_refused({
      {"not installed",
       handler("nothere"),
       {"3: handler: load @BUILT@handlers/nothere.so: No such file or directory"}},
      {"no such path",
       handler("/nowhere/x.so"),
       {"3: handler: load /nowhere/x.so: No such file or directory"}},
      {"a text", handler(text), {"3: handler: load " + text + ": invalid ELF header"}},
      {"a folder",
       handler(folder.path()),
       {"3: handler: load " + folder.path() + ": not a regular file"}},
      {"a pipe that nobody writes to",
       handler(pipe),
       {"3: handler: load " + pipe + ": not a regular file"}},
      {"a shared object of another kind",
       handler("@HANDLERS@/no_handler.so"),
       {"3: handler: load @HANDLERS@/no_handler.so: no symbol preforkd_handler: not a preforkd "
        "handler"}},
      {"of ABI version 0",
       handler("@HANDLERS@/abi_none.so"),
       {"3: handler: load @HANDLERS@/abi_none.so: handler ABI version 0, this preforkd supports 1 "
        "to 2"}},
      {"of the next ABI version",
       handler("@HANDLERS@/abi_next.so"),
       {"3: handler: load @HANDLERS@/abi_next.so: handler ABI version 3, this preforkd supports 1 "
        "to 2"}},
      {"none at all",
       one_pool(""),
       {"2: handler: missing; every pool needs a handler, a program or serve"}},
  });
}

void programs_that_are_none() {
  TestFolder folder;
  const std::string text = folder.write("not-executable", "#!/bin/sh\n", 0644);
  const std::string hidden = folder.file("hidden");
  std::filesystem::create_directory(hidden);
  folder.write("hidden/program", "#!/bin/sh\n", 0755);
  chmod(hidden.c_str(), 0700);
  auto program = [](const std::string& path) {
    return one_pool("program = [ \"" + path + "\", \"argument\" ];");
  };
  expect_all_refused({
      {"missing",
       program("/nowhere/program"),
       {"3: program: execute /nowhere/program: No such file or directory"}},
      {"not executable", program(text), {"3: program: execute " + text + ": Permission denied"}},
      {"a folder",
       program(folder.path()),
       {"3: program: execute " + folder.path() + ": not a regular file"}},
      {"not a path", program("cat"), {"3: program: \"cat\": expected an absolute path"}},
      {"both",
       one_pool("handler = \"echo\";\nprogram = [ \"/bin/cat\" ];"),
       {"4: program: a pool has a handler, a program or serve: one of them"}},
  });
  if (is_root())  // who can read everything himself must ask as the pool's user
    expect_refused({"out of reach for the pool's user",
                    program(hidden + "/program"),
                    {"3: program: execute " + hidden + "/program: Permission denied"}});
}

void users_that_are_none() {
  expect_all_refused({
      {"user",
       one_pool("handler = \"echo\";\nuser = \"no-such-user\";"),
       {"4: user: there is no user \"no-such-user\""}},
      {"group",
       one_pool("handler = \"echo\";\ngroup = \"no-such-group\";"),
       {"4: group: there is no group \"no-such-group\""}},
      {"control.group",
       "control = { group = \"no-such-group\"; };\npools = ( { name = \"a\"; listen = [ "
       "\"127.0.0.1:@PORT@\" ]; handler = \"echo\"; } );",
       {"1: control.group: there is no group \"no-such-group\""}},
  });
}

void all_at_once() {
  expect_refused({"several errors",
                  "control = { web = 3; };\n"
                  "log = { level = \"loud\"; };\n"
                  "pools = ( {\n"
                  "  name = \"Bad Name\"; listen = [ \"127.0.0.1:99999\" ];\n"
                  "  workerz = { };\n"
                  "  timeouts = { drain = -1; start = \"x\"; }; handler = \"nothere\";\n"
                  "}, {\n"
                  "  listen = [ \"127.0.0.1:@PORT@\" ]; program = [ \"/nowhere\" ];\n"
                  "} );\n",
                  {"1: control.web: expected a string, not 3",
                   "2: log.level: \"loud\": expected error, warning, notice, info or debug",
                   "4: name: \"Bad Name\": expected 1 to 32 characters of a-z 0-9 _ . - that begin "
                   "with a letter or a digit",
                   "4: listen: \"127.0.0.1:99999\": the port must be a number from 0 to 65535",
                   "5: workerz: unknown key; did you mean \"workers\"?",
                   "6: timeouts.drain: expected seconds from 0 to 315360000, not -1",
                   "6: timeouts.start: expected seconds from 0.01 to 315360000, not \"x\"",
                   "7: name: missing; every pool needs one",
                   "6: handler: load @BUILT@handlers/nothere.so: No such file or directory",
                   "8: program: execute /nowhere: No such file or directory"}});
}

// --- the command line ----------------------------------------------------------------------------

Outcome preforkd(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), built("preforkd"));
  return run(arguments);
}

void checks_without_listening() {
  TestFolder folder;
  TakenPort port;
  const std::string file =
      folder.write("good.conf", config_of({PoolText{.listen = port.quoted()}}));
  Outcome good = preforkd({"-t", "-c", file, "--runtime-dir", folder.file("run")});
  expect_equal("-t of a good file", good.code, 0);
  expect_equal("what -t says", good.out, file + ": good\n");
  Outcome bad = preforkd({"-t", "-c", folder.write("bad.conf", "pools = 3;")});
  expect_equal("-t of a bad file", bad.code, 78);
  expect_equal("what -t says", bad.err,
               "preforkd: error: " + folder.file("bad.conf") +
                   ":1: pools: expected a list of groups, ( { ... }, ... ), not 3\n");
  expect(!std::filesystem::exists(folder.file("run")), "-t makes no runtime directory");
}

void prints_what_it_will_use() {
  TestFolder folder;
  const std::string written = folder.write(
      "written.conf",
      config_of({PoolText{.listen = "\"127.0.0.1:7\", \"unix:@DIR@/a b\"",
                          .serves = "handler = \"echo\"; settings = { a = [ 1, 2 ]; b = 0.5; c = "
                                    "( \"x\", { d = true; } ); e = \"\\\"\\\\\\n\"; };",
                          .workers = "min = 1; max = 2000; shrink_after = 0.25;",
                          .timeouts = "connection = 3;"},
                 PoolText{.name = "cat", .serves = "program = [ \"/bin/cat\", \"-u\" ];"}}));
  for (std::vector<std::string> from : {std::vector<std::string>{"-c", written}, {}}) {
    from.push_back("-T");
    Outcome first = preforkd(from);
    expect_equal("-T", first.code, 0);
    Outcome second = preforkd({"-T", "-c", folder.write("printed.conf", first.out)});
    expect_equal("-T of its own output", second.code, 0);
    expect_equal("the output of -T, fed back", second.out, first.out);
  }
}

void command_line() {
  const std::string usage = "usage: preforkd ";
  const std::vector<std::string> wrong[] = {
      {"-x"}, {"--bogus"}, {"-c"}, {"--runtime-dir"}, {"extra"}};
  for (const auto& arguments : wrong) {
    Outcome outcome = preforkd(arguments);
    expect_equal("exit code of " + arguments[0], outcome.code, 64);
    expect_contains("what it says of " + arguments[0], outcome.err, usage);
    expect_equal("nothing on standard output", outcome.out, "");
  }
  Outcome version = preforkd({"--version"}), help = preforkd({"--help"});
  expect_equal("--version", version.code, 0);
  expect_equal("--version", version.out.substr(0, 9), "preforkd ");
  expect_equal("--help", help.code, 0);
  expect_equal("--help", help.out.substr(0, usage.size()), usage);
  Outcome missing = preforkd({"-c", "/nowhere/preforkd.conf"});
  expect_equal("a file that is not there", missing.code, 78);
  expect_equal("what it says of it", missing.err,
               "preforkd: error: open /nowhere/preforkd.conf: No such file or directory\n");
}

}  // namespace

Suite config_suite() {
  return {"config",
          {{"the port that the test holds is missed", the_trap_works},
           {"syntax, keys, types, ranges", syntax_and_keys},
           {"pools of one name or address", pools_that_collide},
           {"handlers that are none", handlers_that_are_none},
           {"programs that are none", programs_that_are_none},
           {"users and groups that are none", users_that_are_none},
           {"all errors are told at once", all_at_once},
           {"-t", checks_without_listening},
           {"-T", prints_what_it_will_use},
           {"the command line", command_line}}};
}

}  // namespace preforkd::system_test
