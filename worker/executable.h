// Whether a program can be executed: asked before a client comes, who could only be cut off.
#pragma once

#include <string>

namespace preforkd {

// As the calling user: whether it is a file that may be executed. "", or why not. What is looked for in $PATH.
std::string access_trouble(const std::string& file);

// The same, and whether it is of a kind that can be: a binary of this machine whose loader is there, a script whose
// interpreter is there and can be executed itself ("/bin/sh" and a CR is none), or what somebody has registered with
// binfmt_misc. So nobody but the kernel knows it, and it is asked, without a single instruction of the program: a child
// executes it with no address space (RLIMIT_AS 0). All that is wrong with the file is an error of execve(2); where
// nothing is, the kernel cannot map the program, and kills the child. Where it cannot be asked, it is good.
//
// One level further down: what env(1) is to find as the interpreter ("#!/usr/bin/env python3"), if that is all it is told.
std::string execution_trouble(const std::string& file);

// Of what can be executed: why libpreforkd could not be loaded into what runs then, which is a script's interpreter; "" if it can.
std::string preloading_trouble(const std::string& file);

}  // namespace preforkd
