// conf/pool_json: the document by which a supervisor gets its pool's settings. It is refused with a reason,
// or it is what the daemon would have written.
#include <stdexcept>

#include "conf/pool_json.h"
#include "tests/fuzz/fuzz.h"

using namespace preforkd;
using fuzz::must;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  PoolSettings pool;
  try {
    pool = pool_from_json(fuzz::text_of(data, size));
  } catch (const std::runtime_error& error) {
    must(std::string_view(error.what()).starts_with("read pool settings: "), "the reason",
         error.what());
    return 0;
  }
  std::string json = pool_to_json(pool);
  must(pool_from_json(json) == pool, "what was read is written as the same", json);
  return 0;
}
