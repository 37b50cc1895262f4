// accumulate: adds up numbers while they come. A client streams chunks; whenever the server has gathered enough of
// them, it answers with the sums so far, one for each number; and once more at the end of the stream.
//
//   chunk    4 bytes: how many bytes follow, at most 65536 and a multiple of 4; then so many bytes of numbers
//   answer   4 bytes: how many bytes follow; then so many bytes of sums
//
// All integers are unsigned, of 32 bits, in network byte order; sums are modulo 2^32. Enough are 262144 bytes: the
// chunk that brings the sum of lengths there or beyond is answered with all chunks since the last answer. When the
// client has finished writing, it is sent an answer for the rest, if there is any, and then an empty answer, which says
// that all was received; then the connection ends.
//
// A chunk that breaks these rules, a stream that ends within a chunk, and a client that takes longer than five minutes to
// send a batch and read its answer, end the connection without the empty answer.
//
// However fast a client sends, and however slowly it reads: a worker holds one batch, which is at most
// kEnough + kLongestChunk - 4 bytes, in a buffer made once. While it writes an answer it reads nothing, and
// the kernel makes the client wait. So a client must read while it writes, or it stands still, itself alone.
#include <arpa/inet.h>

#include <preforkd/handler.hpp>
#include <vector>

namespace {

constexpr size_t kLongestChunk = 64 * 1024, kEnough = 256 * 1024;
constexpr std::chrono::minutes kPatience{5};

class Accumulate : public preforkd::Handler {
 public:
  // Not in preload: what every worker writes to cannot be shared.
  void start() override { words_.resize(1 + (kEnough + kLongestChunk) / sizeof(uint32_t)); }

  void serve(preforkd::Stream& stream) override {
    uint32_t sum = 0;
    size_t gathered = 0;
    stream.set_deadline(kPatience);
    while (read_chunk(stream, gathered)) {
      if (gathered < kEnough) continue;
      answer(stream, gathered, sum);
      gathered = 0;
      stream.set_deadline(kPatience);
    }
    if (gathered > 0) answer(stream, gathered, sum);
    answer(stream, 0, sum);
  }

 private:
  // Puts the next one behind what is gathered; false at the end of the stream. What the client does wrong is a
  // StreamError: it is worth a line in the log, and no error of ours.
  bool read_chunk(preforkd::Stream& stream, size_t& gathered) {
    uint32_t length = 0;
    const size_t got = stream.read_exactly(&length, sizeof length);
    if (got == 0) return false;
    length = ntohl(length);
    if (got == sizeof length && (length > kLongestChunk || length % sizeof(uint32_t) != 0))
      throw preforkd::StreamError("read: a chunk of " + std::to_string(length) + " bytes");
    if (got < sizeof length || stream.read_exactly(batch() + gathered, length) < length)
      throw preforkd::StreamError("read: the stream ended within a chunk");
    gathered += length;
    return true;
  }

  void answer(preforkd::Stream& stream, size_t size, uint32_t& sum) {
    words_[0] = htonl(static_cast<uint32_t>(size));
    for (size_t i = 1; i <= size / sizeof(uint32_t); i++)
      words_[i] = htonl(sum += ntohl(words_[i]));
    stream.write_all(words_.data(), sizeof(uint32_t) + size);
  }

  char* batch() { return reinterpret_cast<char*>(&words_[1]); }

  // The length of an answer, and the batch, which becomes the answer where it lies: so both are written at once.
  std::vector<uint32_t> words_;
};

}  // namespace

PREFORKD_REGISTER(Accumulate);
