package process

import (
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// forwarded is a list and not "all": the runtime sends itself SIGURG by the
// dozen, SIGCHLD is the Reaper's, TERM and INT are main's.
var forwarded = []os.Signal{
	syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH,
}

// Forward hands HUP, QUIT, USR1, USR2 and WINCH on to the child's group until
// stop is called. stop returns when no signal is on its way.
func Forward(c *Child) (stop func()) {
	ch := make(chan os.Signal, 4*len(forwarded)) // Notify drops what finds no room
	signal.Notify(ch, forwarded...)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for s := range ch {
			if sig, ok := s.(syscall.Signal); ok {
				_ = c.Signal(sig) // a group that is gone needs none
			}
		}
	}()
	return func() {
		signal.Stop(ch)
		close(ch)
		<-ended
	}
}

// Withstand keeps the signals that Forward forwards from ending this process
// where there is no child to forward them to, until stop is called.
func Withstand() (stop func()) {
	ch := make(chan os.Signal, 1) // nobody reads it
	signal.Notify(ch, forwarded...)
	return func() { signal.Stop(ch) }
}

// BecomeSubreaper makes orphans of this process's descendants its own
// children, as they are those of PID 1: a Reaper with orphans must run.
func BecomeSubreaper() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	return nil
}

// Controls says whether f is the controlling terminal of this process, which
// Spec.Terminal may hand to a child.
func Controls(f *os.File) bool {
	conn, err := f.SyscallConn()
	if err != nil {
		return false
	}
	ours := false
	err = conn.Control(func(fd uintptr) {
		_, ierr := unix.IoctlGetInt(int(fd), unix.TIOCGPGRP)
		ours = ierr == nil
	})
	return err == nil && ours
}
