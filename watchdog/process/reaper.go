package process

import (
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrClosed is returned by Start after Close.
var ErrClosed = errors.New("reaper closed")

// Reaper starts children and is the one that waits for them: one loop, woken
// by SIGCHLD, whatever their number.
type Reaper struct {
	orphans bool
	wake    chan os.Signal // SIGCHLD, and Close
	ended   chan struct{}

	// forks is held for reading from before a fork until the child stands in
	// children. A dead process that does not stand there is judged under the
	// write lock only: then it is surely a stranger.
	forks sync.RWMutex

	mu       sync.Mutex
	children map[int]*Child
	remnants []*Child // reaped, with descendants left
	null     *os.File
	closed   bool
}

// NewReaper starts the loop. With orphans it also reaps every child of this
// process that it did not start, as PID 1 and a subreaper must; there may be
// only one such Reaper, and no os/exec beside it.
func NewReaper(orphans bool) *Reaper {
	r := &Reaper{
		orphans:  orphans,
		wake:     make(chan os.Signal, 1),
		ended:    make(chan struct{}),
		children: make(map[int]*Child),
	}
	signal.Notify(r.wake, syscall.SIGCHLD)
	r.kick() // what died before the loop began
	go r.loop()
	return r
}

// Close kills the groups of all children, waits until they are reaped and ends
// the loop. Start fails from then on.
func (r *Reaper) Close() {
	r.forks.Lock()
	r.mu.Lock()
	r.closed = true
	left := append([]*Child(nil), r.remnants...)
	for _, c := range r.children {
		left = append(left, c)
	}
	r.mu.Unlock()
	r.forks.Unlock()
	for _, c := range left {
		_ = c.Kill() // gone is what we want
	}
	r.kick()
	<-r.ended
}

func (r *Reaper) kick() {
	select {
	case r.wake <- syscall.SIGCHLD:
	default: // a pass is due already
	}
}

func (r *Reaper) loop() {
	defer close(r.ended)
	defer signal.Stop(r.wake)
	for range r.wake {
		r.pass()
		if r.finish() {
			return
		}
	}
}

// finish drops the groups that have emptied and, when the Reaper is closed and
// no child is left, lets go of all it holds.
func (r *Reaper) finish() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	end := r.closed && len(r.children) == 0
	kept := r.remnants[:0]
	for _, c := range r.remnants {
		if err := c.Signal(0); errors.Is(err, os.ErrProcessDone) {
			continue
		}
		if end {
			c.forget()
			continue
		}
		kept = append(kept, c)
	}
	clear(r.remnants[len(kept):])
	r.remnants = kept
	if end && r.null != nil {
		_ = r.null.Close()
		r.null = nil
	}
	return end
}

// pass reaps all that is dead now. Looking first, without reaping, is what
// lets a status reach its owner: a child of ours, or os/exec beside us.
func (r *Reaper) pass() {
	for {
		pid, err := peek(unix.P_ALL, 0)
		if err != nil || pid == 0 {
			return
		}
		if c := r.child(pid); c != nil {
			r.reap(c)
			continue
		}
		// A stranger, or a child whose fork is not over.
		r.forks.Lock()
		c := r.child(pid)
		if c == nil && r.orphans {
			_, _ = wait4(pid)
		}
		r.forks.Unlock()
		switch {
		case c != nil:
			r.reap(c)
		case !r.orphans:
			// It stays, and hides what died after it.
			r.scan()
			return
		}
	}
}

// scan asks for each child by its number.
func (r *Reaper) scan() {
	r.mu.Lock()
	all := make([]*Child, 0, len(r.children))
	for _, c := range r.children {
		all = append(all, c)
	}
	r.mu.Unlock()
	for _, c := range all {
		if pid, err := peek(unix.P_PID, c.pid); err == nil && pid == c.pid {
			r.reap(c)
		}
	}
}

// reap takes the status of a child that is a zombie.
func (r *Reaper) reap(c *Child) {
	r.mu.Lock()
	delete(r.children, c.pid) // before its number can be given to another
	r.mu.Unlock()

	c.mu.Lock()
	if c.killGroup {
		_ = syscall.Kill(-c.pid, syscall.SIGKILL) // a zombie holds the number
		c.left = &remnant{pid: c.pid, fd: -1}
	} else {
		c.left = newRemnant(c.pid)
	}
	ws, err := wait4(c.pid)
	c.status = statusOf(ws, err)
	alive := c.left.signal(0)
	c.mu.Unlock()

	if !errors.Is(alive, os.ErrProcessDone) {
		r.mu.Lock()
		r.remnants = append(r.remnants, c)
		r.mu.Unlock()
	}
	close(c.done)
}

// lostCode stands for a status that someone else in this process took.
const lostCode = 255

func statusOf(ws syscall.WaitStatus, err error) Status {
	switch {
	case err != nil:
		return Status{Code: lostCode}
	case ws.Signaled():
		return Status{Signal: ws.Signal(), Core: ws.CoreDump()}
	default:
		return Status{Code: ws.ExitStatus()}
	}
}

func (r *Reaper) child(pid int) *Child {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.children[pid]
}

func (c *Child) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left.close()
}

// siginfo is the part of siginfo_t that waitid fills in, and room for the rest.
type siginfo struct {
	_   [3]int32
	_   [unsafe.Sizeof(uintptr(0)) - 4]byte
	pid int32
	_   [128]byte
}

// peek finds a dead child and leaves it as it is. It returns 0 when none is
// dead, ECHILD when there is none at all.
func peek(kind, id int) (pid int, err error) {
	for {
		var info siginfo
		err := unix.Waitid(kind, id, (*unix.Siginfo)(unsafe.Pointer(&info)),
			unix.WEXITED|unix.WNOWAIT|unix.WNOHANG, nil)
		if !errors.Is(err, syscall.EINTR) {
			return int(info.pid), err
		}
	}
}

func wait4(pid int) (ws syscall.WaitStatus, err error) {
	for {
		_, err = syscall.Wait4(pid, &ws, 0, nil)
		if !errors.Is(err, syscall.EINTR) {
			return ws, err
		}
	}
}
