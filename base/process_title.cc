#include "base/process_title.h"

#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace preforkd {
namespace {

char* room = nullptr;
size_t room_size = 0;

}  // namespace

void reserve_process_title(int argc, char** argv) {
  // argv's strings and the environment's lie one behind the other (execve(2) lays them out so).
  char* end = argv[0];
  for (int i = 0; i < argc; ++i)
    if (argv[i] == end) end += std::strlen(argv[i]) + 1;
  size_t count = 0;
  for (; environ[count]; ++count)
    if (environ[count] == end) end += std::strlen(environ[count]) + 1;
  // Lives as long as the process: environ points to it.
  auto* moved = new char*[count + 1];
  for (size_t i = 0; i < count; ++i) moved[i] = strdup(environ[i]);
  moved[count] = nullptr;
  environ = moved;
  room = argv[0];
  room_size = static_cast<size_t>(end - argv[0]);
}

void set_process_title(std::string_view title, const char* comm) {
  prctl(PR_SET_NAME, comm, 0, 0, 0);
  if (room_size == 0) return;
  size_t used = std::min(title.size(), room_size - 1);
  std::memcpy(room, title.data(), used);
  std::memset(room + used, 0, room_size - used);
}

}  // namespace preforkd
