package local

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-run/weir/watchdog/process"
)

// errLost says that the keeper has died. Whatever it kept was told to end.
var errLost = errors.New("the keeper of the replicas is gone")

// keeper is the process that is the parent of all replicas, as weir sees it:
// Keep is the other side. Its folder is the parent of those of the replicas.
type keeper struct {
	folder string
	wire   *wire
	cmd    *exec.Cmd
	log    *slog.Logger

	mu     sync.Mutex
	serial uint64
	kept   map[uint64]*kept
	gone   bool // by itself, or closed

	// lost is closed when it has gone and all of its replicas are done.
	lost chan struct{}
}

// kept is one program that a keeper runs.
type kept struct {
	id     uint64
	keeper *keeper
	begun  chan error // one, or nil when it runs
	pid    int        // written before begun
	done   chan struct{}
	status process.Status // written before done is closed
}

// lockName is a file that is locked while weir or its keeper live, so that the
// next weir can tell a folder in use from one that was left.
const lockName = "lock"

// folderPattern names the folders.
const folderPattern = "weir-local-*"

// startKeeper starts the program of command, which runs Keep, with its folder
// as the last argument.
func startKeeper(command []string, temp string, stderr io.Writer, log *slog.Logger) (k *keeper, err error) {
	if len(command) == 0 {
		return nil, errors.New("no program to start it with")
	}
	folder, lock, err := makeFolder(temp)
	if err != nil {
		return nil, err
	}
	defer func() { _ = lock.Close() }()
	defer func() {
		if err != nil {
			_ = os.RemoveAll(folder)
		}
	}()
	ours, theirs, err := socketpair()
	if err != nil {
		return nil, err
	}
	defer func() { _ = ours.Close() }()
	defer func() { _ = theirs.Close() }()
	line, err := newWire(ours)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(command[0], append(command[1:len(command):len(command)], folder)...)
	cmd.Env = []string{}                      // it needs none; nil would be all of weir's
	cmd.Stderr = stderr                       // of which there is some only when it is broken
	cmd.ExtraFiles = []*os.File{theirs, lock} // wireFD, lockFD
	// A session of its own: what a terminal or a shell sends to weir's group
	// is not for it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		_ = line.conn.Close()
		return nil, err
	}
	k = &keeper{folder: folder, wire: line, cmd: cmd, log: log, kept: map[uint64]*kept{}, lost: make(chan struct{})}
	go k.listen()
	return k, nil
}

// makeFolder makes and locks a folder that is nobody else's.
func makeFolder(temp string) (folder string, lock *os.File, err error) {
	for range 10 {
		if folder, err = os.MkdirTemp(temp, folderPattern); err != nil {
			return "", nil, fmt.Errorf("folder of the replicas: %w: expected TMPDIR to be one in which folders can be made", err)
		}
		path := filepath.Join(folder, lockName)
		if lock, err = os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_EXCL, 0o600); err != nil {
			continue
		}
		// Another weir may just have taken it for one that was left.
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			if _, err = os.Stat(path); err == nil {
				return folder, lock, nil
			}
		}
		_ = lock.Close()
	}
	return "", nil, fmt.Errorf("temporary folder: %w", err)
}

// clearLeft removes what a weir left whose keeper was killed with it: its
// folders, and the processes that still have them.
func clearLeft(temp string, log *slog.Logger) {
	folders, _ := filepath.Glob(filepath.Join(temp, folderPattern))
	for _, folder := range folders {
		info, err := os.Lstat(folder)
		if err != nil || !info.IsDir() {
			continue
		}
		if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() {
			continue
		}
		lock, err := os.OpenFile(filepath.Join(folder, lockName), os.O_RDWR|syscall.O_NOFOLLOW, 0)
		if err != nil {
			continue // not yet there, or somebody else's idea of the name
		}
		if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			killed := sweep(folder)
			log.Info("removed what a killed weir had left", "folder", folder, "processes", killed)
		}
		_ = lock.Close()
	}
}

// sweeps is how often a folder's processes are looked for: one that forks
// while it is looked for takes more than one.
const sweeps = 20

// sweep kills every process that has its temporary folder below folder, and
// removes it.
func sweep(folder string) (killed int) {
	for range sweeps {
		n := killWith("TMPDIR", folder)
		killed += n
		if n == 0 {
			break
		}
	}
	_ = os.RemoveAll(folder)
	return killed
}

// start runs a program. It returns when the program runs or cannot.
func (k *keeper) start(p *program, stdout, stderr *os.File) (*kept, error) {
	k.mu.Lock()
	if k.gone {
		k.mu.Unlock()
		return nil, errLost
	}
	k.serial++
	c := &kept{id: k.serial, keeper: k, begun: make(chan error, 1), done: make(chan struct{})}
	k.kept[c.id] = c
	k.mu.Unlock()
	if err := k.wire.send(&order{ID: c.id, Start: p}, stdout, stderr); err != nil {
		k.mu.Lock()
		delete(k.kept, c.id)
		k.mu.Unlock()
		return nil, fmt.Errorf("%w: %w", errLost, err)
	}
	if err := <-c.begun; err != nil {
		return nil, err
	}
	return c, nil
}

// signal reaches the program alone, not its descendants: fwatchdog sees to
// these, and the keeper when it has ended. One that has ended needs none.
func (c *kept) signal(sig syscall.Signal) {
	_ = c.keeper.wire.send(&order{ID: c.id, Signal: sig})
}

// listen takes what the keeper says until it is gone.
func (k *keeper) listen() {
	for {
		var said notice
		files, err := k.wire.receive(&said)
		closeAll(files)
		if err != nil {
			break
		}
		k.hear(&said)
	}
	k.mu.Lock()
	closed := k.gone
	k.gone = true
	left := k.kept
	k.kept = map[uint64]*kept{}
	k.mu.Unlock()
	_ = k.wire.conn.Close()
	// It may have let go of the line alone. Nothing else can be made of it.
	if !closed {
		_ = k.cmd.Process.Kill()
	}
	err := k.cmd.Wait()
	for _, c := range left {
		c.begun <- errLost
		c.status = process.Status{Signal: unix.SIGTERM} // by the death of its parent
		close(c.done)
	}
	if !closed {
		k.log.Error("the keeper of the replicas died: they are told to end, and others take their place", "err", err, "grace", lastGrace)
		time.Sleep(lastGrace)
		k.log.Info("ended what the keeper left", "processes", sweep(k.folder))
	}
	close(k.lost)
}

func (k *keeper) hear(said *notice) {
	k.mu.Lock()
	c := k.kept[said.ID]
	if said.Event != began {
		delete(k.kept, said.ID)
	}
	k.mu.Unlock()
	if c == nil {
		return
	}
	switch said.Event {
	case began:
		c.pid = said.Pid
		c.begun <- nil
	case refused:
		c.begun <- errors.New(strings.TrimSpace(said.Error))
	case ended:
		c.status = process.Status{Code: said.Code, Signal: said.Signal}
		close(c.done)
	}
}

// alive says whether programs can be started.
func (k *keeper) alive() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return !k.gone
}

// close has the keeper end all that is left, and returns when it has.
func (k *keeper) close() {
	k.mu.Lock()
	first := !k.gone
	k.gone = true
	k.mu.Unlock()
	if first {
		// Half: the keeper reads its end, and still says how replicas ended.
		_ = k.wire.conn.CloseWrite()
	}
	<-k.lost
}
