package watchdog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// LockPath is where a watchdog with this environment writes its lock file:
// .lock in TMPDIR, or in /tmp.
func LockPath(environ []string) string { return filepath.Join(tempFolder(environ), ".lock") }

// tempFolder is TMPDIR, or /tmp.
func tempFolder(environ []string) string {
	dir := "/tmp"
	for _, kv := range environ {
		if v, ok := strings.CutPrefix(kv, "TMPDIR="); ok && v != "" {
			dir = v
		}
	}
	return dir
}

// Locked says whether the lock file is there: some watchdog accepts requests.
func Locked(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Probe is the whole of an exec probe: it returns the exit code, 0 when a
// watchdog with this environment accepts requests, else 1 with the reason on
// stderr. No other setting needs to be right for it.
func Probe(environ []string, stderr io.Writer) int {
	if Locked(LockPath(environ)) {
		return 0
	}
	fmt.Fprintln(stderr, "unable to find lock file.")
	return 1
}

func writeLock(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return fmt.Errorf("lock file %s: %w (suppress_lock=true does without)", path, err)
	}
	if err := os.WriteFile(path, nil, 0o660); err != nil {
		return fmt.Errorf("lock file %w (suppress_lock=true does without)", err)
	}
	return nil
}

func removeLock(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("lock file %w", err)
	}
	return nil
}
