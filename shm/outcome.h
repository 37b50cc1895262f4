// How a connection ended that a worker had begun to serve. Each is counted once, as one of these:
//
//   served    whoever serves says so: a handler's `serve` returned 0, a program ended with one of the pool's `success`
//             statuses, a program that accepts by itself said so, or nothing. Whatever the client did.
//   aborted   it did not go well, and the client had ended it: it had reset the connection, or was out of reach; or it had
//             closed before one byte of an answer had gone out to it. worker/client_end.h says how that is known. A
//             client that has only finished writing, and waits, cannot be told from one that closed as long as nothing
//             was sent to it; so that, too, is aborted if whoever serves then fails.
//   failed    all else: an error, a crash, a deadline, a worker that was killed with it.
//
// accepted = served + failed + aborted + those in hand. Who is turned away before that (shm/rejection.h) is in none of
// them, and is rejected even if it has reset the connection meanwhile.
#pragma once

namespace preforkd {

enum class Outcome { kServed, kFailed, kAborted };

}  // namespace preforkd
