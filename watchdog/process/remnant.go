package process

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// remnant is the group of a leader that was reaped. The kernel gives a number
// anew only when no process carries it as its pid, group or session: while the
// group has members its number is safe, and from the moment it has none the
// number may be anyone's. A pidfd of the leader, opened while it was a zombie,
// names the group and not the number, so a signal through it cannot go astray.
type remnant struct {
	pid int
	fd  int // pidfd; -1 when closed or where the kernel cannot signal groups by it
	// byNumber: the kernel is older than 6.9. See signalNumber.
	byNumber bool
}

// newRemnant must be called while the leader is a zombie.
func newRemnant(pid int) *remnant {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return &remnant{pid: pid, fd: -1, byNumber: true}
	}
	return &remnant{pid: pid, fd: fd}
}

// signal reaches the members of the group or returns os.ErrProcessDone, and
// then does so for ever.
func (g *remnant) signal(sig syscall.Signal) error {
	if g.fd >= 0 {
		err := unix.PidfdSendSignal(g.fd, sig, nil, unix.PIDFD_SIGNAL_PROCESS_GROUP)
		switch {
		case errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.ENOSYS):
			g.close()
			g.byNumber = true
		case errors.Is(err, syscall.ESRCH):
			g.close()
			return os.ErrProcessDone
		default:
			return err
		}
	}
	if !g.byNumber {
		return os.ErrProcessDone
	}
	err := g.signalNumber(sig)
	if errors.Is(err, syscall.ESRCH) {
		g.byNumber = false
	}
	return gone(err)
}

// signalNumber goes by the number where the kernel leaves nothing else. A
// process that carries it as its pid shows that the number was given anew. Not
// seen is a stranger that took the number, made it a group and died before its
// members, all since the last call.
func (g *remnant) signalNumber(sig syscall.Signal) error {
	if err := syscall.Kill(g.pid, 0); !errors.Is(err, syscall.ESRCH) {
		return syscall.ESRCH
	}
	return syscall.Kill(-g.pid, sig)
}

// close gives the group up: it is done from now on.
func (g *remnant) close() {
	g.byNumber = false
	if g.fd >= 0 {
		_ = unix.Close(g.fd)
		g.fd = -1
	}
}
