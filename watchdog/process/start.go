package process

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// What Start says of a program that cannot be run; the shells exit with 127
// and 126 for these. Both are wrapped with the path and the cause.
var (
	ErrNotFound      = errors.New("command not found")
	ErrNotExecutable = errors.New("command not executable")
)

// defaultPath is where execvp looks when the environment has no PATH.
const defaultPath = "/bin:/usr/bin"

// Start starts a child as the leader of a group of its own. Its errors wrap
// ErrNotFound, ErrNotExecutable, ErrClosed or the system's errno: EAGAIN when
// no more processes are allowed.
func (r *Reaper) Start(s Spec) (*Child, error) {
	path, err := s.lookup()
	if err != nil {
		return nil, err
	}
	c := &Child{killGroup: s.KillGroupAtExit, done: make(chan struct{})}
	if err := r.fork(c, path, &s); err != nil {
		return nil, explain(s, path, err)
	}
	return c, nil
}

// fork starts c and enters it among the children before anyone can judge it.
func (r *Reaper) fork(c *Child, path string, s *Spec) error {
	r.forks.RLock()
	defer r.forks.RUnlock()
	null, err := r.devNull()
	if err != nil {
		return err
	}
	attr := syscall.ProcAttr{
		Dir:   s.Dir,
		Env:   s.Env,
		Files: make([]uintptr, 3),
		Sys:   &syscall.SysProcAttr{Setpgid: true},
	}
	for i, f := range [...]*os.File{s.Stdin, s.Stdout, s.Stderr} {
		if f == nil {
			f = null
		}
		attr.Files[i] = f.Fd()
	}
	if s.Terminal != nil {
		attr.Sys.Foreground = true
		attr.Sys.Ctty = int(s.Terminal.Fd())
	}
	argv := append([]string{s.Path}, s.Args...)
	pid, err := syscall.ForkExec(path, argv, &attr)
	switch {
	case s.Terminal == nil:
	case err == nil:
		// After the start: a child would inherit it.
		signal.Ignore(syscall.SIGTTIN, syscall.SIGTTOU)
	case errors.Is(err, syscall.ENOTTY), errors.Is(err, syscall.EPERM), errors.Is(err, syscall.ENXIO):
		attr.Sys.Foreground = false
		pid, err = syscall.ForkExec(path, argv, &attr)
	}
	runtime.KeepAlive(s)
	if err != nil {
		return err
	}
	c.pid = pid
	r.mu.Lock()
	r.children[pid] = c
	r.mu.Unlock()
	return nil
}

// devNull is opened once. A closed Reaper has it no more.
func (r *Reaper) devNull() (*os.File, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, ErrClosed
	}
	if r.null == nil {
		f, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		r.null = f
	}
	return r.null, nil
}

// lookup finds the file to execute as execvp does: the first of PATH that is
// an executable file, else the first that is there tells what is wrong.
func (s *Spec) lookup() (string, error) {
	if s.Path == "" {
		return "", fmt.Errorf("empty path: %w", ErrNotFound)
	}
	if strings.Contains(s.Path, "/") {
		return s.Path, nil // exec itself says what is wrong
	}
	var refused error
	for _, dir := range filepath.SplitList(s.pathList()) {
		if dir == "" {
			dir = "."
		}
		file := dir + "/" + s.Path
		err := executable(s.fromDir(file))
		if err == nil {
			return file, nil
		}
		if refused == nil && errors.Is(err, syscall.EACCES) {
			refused = fmt.Errorf("%s: %w: %w", file, ErrNotExecutable, err)
		}
	}
	if refused != nil {
		return "", refused
	}
	return "", fmt.Errorf("%s: %w", s.Path, ErrNotFound)
}

func (s *Spec) pathList() string {
	for _, kv := range s.Env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			return v
		}
	}
	return defaultPath
}

// fromDir is how this process names a file that the child names from Dir.
func (s *Spec) fromDir(file string) string {
	if s.Dir == "" || filepath.IsAbs(file) {
		return file
	}
	return filepath.Join(s.Dir, file)
}

func executable(file string) error {
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return syscall.EACCES
	}
	return unix.Faccessat(unix.AT_FDCWD, file, unix.X_OK, unix.AT_EACCESS)
}

// explain says which of the things that an errno of ForkExec can mean it was.
func explain(s Spec, path string, err error) error {
	file := s.fromDir(path)
	switch {
	case errors.Is(err, ErrClosed):
		return err
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EACCES):
		if s.Dir != "" {
			if st, derr := os.Stat(s.Dir); derr != nil {
				return fmt.Errorf("working directory: %w", derr)
			} else if !st.IsDir() {
				return fmt.Errorf("working directory %s: %w", s.Dir, syscall.ENOTDIR)
			}
		}
	}
	switch {
	case errors.Is(err, syscall.ENOENT):
		if _, serr := os.Stat(file); serr == nil {
			return fmt.Errorf("%s: %w: %s", path, ErrNotExecutable, missingLoader(file))
		}
		return fmt.Errorf("%s: %w", path, ErrNotFound)
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ELOOP), errors.Is(err, syscall.ENAMETOOLONG):
		return fmt.Errorf("%s: %w: %w", path, ErrNotFound, err)
	case errors.Is(err, syscall.EACCES):
		if st, serr := os.Stat(file); serr == nil && st.IsDir() {
			return fmt.Errorf("%s: %w: is a directory", path, ErrNotExecutable)
		}
		return fmt.Errorf("%s: %w: %w", path, ErrNotExecutable, err)
	case errors.Is(err, syscall.ENOEXEC), errors.Is(err, syscall.ETXTBSY),
		errors.Is(err, syscall.ELIBBAD), errors.Is(err, syscall.EINVAL):
		return fmt.Errorf("%s: %w: %w", path, ErrNotExecutable, err)
	}
	return fmt.Errorf("%s: %w", path, err)
}

// missingLoader says what a file that is there lacks when exec says it is not.
func missingLoader(file string) string {
	const elf = "the loader it is linked for is missing (made for another libc?)"
	f, err := os.Open(file)
	if err != nil {
		return elf
	}
	defer f.Close()
	head := make([]byte, 256) // as much of a #! line as the kernel reads
	n, _ := io.ReadFull(f, head)
	line, _, _ := bytes.Cut(head[:n], []byte("\n"))
	if !bytes.HasPrefix(line, []byte("#!")) {
		return elf
	}
	if bytes.HasSuffix(line, []byte("\r")) {
		return fmt.Sprintf("its interpreter %q is missing (the line ends in CR)", bytes.TrimSpace(line[2:]))
	}
	return fmt.Sprintf("its interpreter %q is missing", bytes.TrimSpace(line[2:]))
}
