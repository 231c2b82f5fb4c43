package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// dataLock is locked while a weir uses the folder.
const dataLock = "weir.lock"

// claimData makes the folder if it is not there, and takes it for this weir
// alone: whatever is kept in it has one owner. release gives it back; a killed
// weir's claim goes with it.
func claimData(folder string) (release func(), err error) {
	if folder == "" {
		return func() {}, nil
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("WEIR_DATA_DIR=%q: %w", folder, err)
		}
	}()
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(folder, dataLock), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		_ = f.Close()
		return nil, errors.New("another weir uses it: give each a folder of its own")
	case err != nil:
		_ = f.Close()
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return func() { _ = f.Close() }, nil
}
