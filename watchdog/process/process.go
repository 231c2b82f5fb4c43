// Package process owns the children of a program: it starts them, signals
// their groups, hands their output on line by line and is the one owner of
// wait(). It knows nothing of HTTP. It runs on Linux only.
//
// While a Reaper lives nobody else in the OS process may wait for any child at
// all (wait4 of -1); waiting for one's own by pid, as os/exec does, is fine
// beside a Reaper that does not reap orphans.
package process

import (
	"errors"
	"os"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Spec says what to start.
type Spec struct {
	// Path is the program. Without a slash it is looked up in the PATH of Env.
	Path string
	// Args are the arguments after argv[0].
	Args []string
	// Env is the whole environment, handed on as it is; of a name that stands
	// twice a C program takes the first.
	Env []string
	// Dir is the working directory; empty is the caller's.
	Dir string

	// Stdin, Stdout and Stderr of the child; nil is /dev/null. They are put
	// into blocking mode. The caller closes its own copies after Start.
	Stdin, Stdout, Stderr *os.File

	// KillGroupAtExit kills what is left of the group when the leader dies,
	// before it is reaped, so that the group's number cannot be anyone else's.
	KillGroupAtExit bool

	// Terminal, when not nil, is the controlling terminal of this process: the
	// child's group becomes its foreground group, and from then on this
	// process ignores SIGTTIN and SIGTTOU so that it may go on writing there.
	// A terminal that is not ours to give is left as it is.
	Terminal *os.File
}

// Status is how a child ended.
type Status struct {
	// Code is what it gave to exit, when Signal is 0.
	Code int
	// Signal is what killed it, or 0.
	Signal syscall.Signal
	// Core is whether a core was dumped.
	Core bool
}

// ExitCode is the code a shell reports: Code, or 128+n for signal n.
func (s Status) ExitCode() int {
	if s.Signal != 0 {
		return 128 + int(s.Signal)
	}
	return s.Code
}

// String is the text of os/exec: "exit status 3", "signal: killed".
func (s Status) String() string {
	switch {
	case s.Signal == 0:
		return "exit status " + strconv.Itoa(s.Code)
	case s.Core:
		return "signal: " + s.Signal.String() + " (core dumped)"
	default:
		return "signal: " + s.Signal.String()
	}
}

// Child is a process that a Reaper started: the leader of a group of its own.
type Child struct {
	pid       int
	killGroup bool
	done      chan struct{}
	status    Status // written before done is closed

	mu sync.Mutex
	// left is how to reach what is left of the group; nil while the leader is
	// not reaped. Reaping and signalling exclude each other by mu: a zombie
	// keeps its number, so a number is used only while it is surely ours.
	left *remnant
}

// Pid is the number of the leader and of its group.
func (c *Child) Pid() int { return c.pid }

// Done is closed when the leader has ended and was reaped.
func (c *Child) Done() <-chan struct{} { return c.done }

// Ended says whether the leader has ended. The kernel knows before Done tells.
func (c *Child) Ended() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left != nil {
		return true
	}
	pid, _ := peek(unix.P_PID, c.pid)
	return pid == c.pid
}

// Status is how the leader ended. It may be asked after Done only.
func (c *Child) Status() Status { return c.status }

// Signal sends sig to the child's group, also when the leader is gone and
// descendants are left. It returns os.ErrProcessDone, and has reached nobody,
// when no process of the group is left. Signal 0 only asks that.
func (c *Child) Signal(sig syscall.Signal) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left != nil {
		return c.left.signal(sig)
	}
	err := syscall.Kill(-c.pid, sig)
	if errors.Is(err, syscall.ESRCH) {
		// The leader has joined another group.
		err = syscall.Kill(c.pid, sig)
	}
	return gone(err)
}

// Kill sends SIGKILL to the group, as Signal does.
func (c *Child) Kill() error { return c.Signal(syscall.SIGKILL) }

func gone(err error) error {
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}
