package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

var errHeld = errors.New("another process holds it")

// lock takes the file for this process, whose end gives it back in any case.
// Its holder may remove the file before it gives it back.
func lock(path string, wait bool) (func(), error) {
	how := unix.LOCK_EX
	if !wait {
		how |= unix.LOCK_NB
	}
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return nil, err
		}
		err = unix.Flock(int(f.Fd()), how)
		if err == nil {
			held, err1 := f.Stat()
			there, err2 := os.Stat(path)
			if err1 == nil && err2 == nil && os.SameFile(held, there) {
				return func() { f.Close() }, nil
			}
		}
		f.Close()
		switch {
		case err == unix.EWOULDBLOCK:
			return nil, fmt.Errorf("lock %s: %w", path, errHeld)
		case err != nil && err != unix.EINTR:
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
	}
}
