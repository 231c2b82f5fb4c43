package local

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// What the keeper is started with: its end of the line, and the lock of the
// folder that it is to remove.
const (
	wireFD = 3
	lockFD = 4
)

// lastGrace is what replicas get to drain when weir is gone: nobody can send
// them anything any more, but what they have begun may be worth its end.
const lastGrace = 5 * time.Second

// killAgain is how often descendants that are left are looked for and killed:
// one that forks while it is killed takes more than one look.
const killAgain = 50 * time.Millisecond

// Keep is the whole of the program that Config.Keeper names: the parent of all
// replicas. It starts and signals what weir tells it to, says how it ended,
// kills what a replica leaves behind, and when weir is gone, for whatever
// reason, ends everything that descends from it and removes folder. It returns
// the exit code of the program.
//
// A process of its own can do what weir cannot: outlive a kill -9 of weir, be
// the one that all orphans of the replicas fall to, and wait for every child
// there is.
func Keep(folder string) int {
	// The replicas get TERM when the thread that started them ends.
	runtime.LockOSThread()
	k := &keeping{alive: map[int]uint64{}, folder: folder}
	if err := k.begin(); err != nil {
		fmt.Fprintf(os.Stderr, "keeper: %v; weir starts this program by itself, it is not for the command line\n", err)
		return 1
	}
	k.serve()
	k.end()
	return 0
}

type keeping struct {
	folder string
	wire   *wire
	null   *os.File
	orders chan errand
	died   chan os.Signal // SIGCHLD
	// alive holds the programs that were started and have not ended: pid to
	// the order's ID.
	alive map[int]uint64
}

// errand is an order with what came beside it.
type errand struct {
	order
	files []*os.File
}

func (k *keeping) begin() error {
	// Neither its own descriptors nor what weir was started with are for the
	// replicas. A kernel older than 5.11 does the first only.
	if unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) != nil {
		unix.CloseOnExec(wireFD)
		unix.CloseOnExec(lockFD)
	}
	socket := os.NewFile(wireFD, "weir")
	line, err := newWire(socket)
	if err != nil {
		return fmt.Errorf("descriptor %d: %w", wireFD, err)
	}
	_ = socket.Close()
	k.wire = line
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	if k.null, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
		return err
	}
	// It ends when weir does and not before. Caught, not ignored: what is
	// ignored stays so in the children.
	signal.Notify(make(chan os.Signal, 1), unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGPIPE)
	k.died = make(chan os.Signal, 1)
	signal.Notify(k.died, unix.SIGCHLD)
	k.orders = make(chan errand)
	go k.receive()
	return nil
}

// receive hands orders on until weir is gone.
func (k *keeping) receive() {
	defer close(k.orders)
	for {
		var next errand
		files, err := k.wire.receive(&next.order)
		if err != nil {
			closeAll(files)
			return
		}
		next.files = files
		k.orders <- next
	}
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

func (k *keeping) serve() {
	for {
		select {
		case o, ok := <-k.orders:
			if !ok {
				return
			}
			k.obey(o)
		case <-k.died:
			k.reap()
		}
	}
}

func (k *keeping) obey(o errand) {
	defer closeAll(o.files)
	if o.Start != nil {
		k.start(o)
		return
	}
	for pid, id := range k.alive {
		if id == o.ID {
			_ = unix.Kill(pid, o.Signal) // not yet reaped: the number is its own
		}
	}
}

func (k *keeping) start(o errand) {
	said := notice{ID: o.ID, Event: refused}
	defer func() { _ = k.wire.send(&said) }() // weir that is gone is seen by receive
	if len(o.files) != 2 {
		said.Error = fmt.Sprintf("%d descriptors came with the order, expected 2", len(o.files))
		return
	}
	for _, f := range o.files {
		_ = unix.SetNonblock(int(f.Fd()), false)
	}
	pid, err := syscall.ForkExec(o.Start.Path, []string{o.Start.Path}, &syscall.ProcAttr{
		Dir:   o.Start.Dir,
		Env:   o.Start.Env,
		Files: []uintptr{k.null.Fd(), o.files[0].Fd(), o.files[1].Fd()},
		Sys:   &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM},
	})
	if err != nil {
		said.Error = err.Error()
		return
	}
	k.alive[pid] = o.ID
	said.Event, said.Pid = began, pid
}

// reap waits for all that is dead, and kills what a dead program left: its
// descendants have become children of this process, which has no others that
// it did not start itself. Those of a living fwatchdog stay with it, for it
// adopts its own orphans.
func (k *keeping) reap() {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			break
		}
		id, ours := k.alive[pid]
		if !ours {
			continue
		}
		delete(k.alive, pid)
		said := notice{ID: id, Event: ended, Pid: pid, Code: ws.ExitStatus()}
		if ws.Signaled() {
			said.Code, said.Signal = 0, ws.Signal()
		}
		_ = k.wire.send(&said)
	}
	k.kill(func(pid int) bool { _, ours := k.alive[pid]; return !ours })
}

// kill kills children of this process.
func (k *keeping) kill(which func(pid int) bool) {
	for _, pid := range children(os.Getpid()) {
		if which(pid) {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}

// end has every descendant end: programs are told to and get lastGrace, then
// all is killed, children first, whose own then fall to this process.
func (k *keeping) end() {
	for pid := range k.alive {
		_ = unix.Kill(pid, unix.SIGTERM)
	}
	late := time.NewTimer(lastGrace)
	defer late.Stop()
	again := time.NewTicker(killAgain)
	defer again.Stop()
	merciless := false
	for k.reap(); !k.childless(); k.reap() {
		select {
		case <-k.died:
		case <-again.C:
		case <-late.C:
			merciless = true
		}
		if merciless {
			k.kill(func(int) bool { return true })
		}
	}
	if err := os.RemoveAll(k.folder); err != nil {
		fmt.Fprintf(os.Stderr, "keeper: temporary folder: %v\n", err)
	}
}

func (k *keeping) childless() bool {
	err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOWAIT|unix.WNOHANG, nil)
	return errors.Is(err, unix.ECHILD)
}
