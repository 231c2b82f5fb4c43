package guard

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// errNothing is returned by a source when there is nothing to read now and
// nothing is wrong: no handler process yet, a file system without inodes.
var errNothing = errors.New("nothing to read")

// errGarbage is the fault of a file that is there and does not hold what the
// kernel writes into it.
var errGarbage = errors.New("unexpected content")

// sample is one reading of one thing that can run out. Used is more than limit
// where a limit was lowered below what is used. Limit 0: none is known.
type sample struct{ used, limit uint64 }

// source appends its samples to dst. Where there are several, the first is the
// process's own, innermost level. One goroutine uses a source; no error, and
// nothing that the machine says, makes it unusable for good: the next read
// starts anew.
type source interface {
	read(dst []sample) ([]sample, error)
}

// machine is the file system of this machine, for sources. Beside what
// os.DirFS does it opens small files cheaply: an os.File is registered with
// the poller, which for a file of a cgroup takes longer than reading it.
type machine struct{ fs.FS }

func newMachine() machine { return machine{os.DirFS("/")} }

// Stat is fs.Stat's way in; without it fs.Stat opens the file.
func (m machine) Stat(name string) (fs.FileInfo, error) { return fs.Stat(m.FS, name) }

// small opens a file that is read without waiting.
func (machine) small(name string) (io.ReadCloser, error) {
	for {
		fd, err := unix.Open("/"+name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		switch err {
		case nil:
			return smallFile{fd: fd, name: name}, nil
		case unix.EINTR:
		default:
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
	}
}

type smallFile struct {
	fd   int
	name string
}

// Read takes what one system call brings.
func (f smallFile) Read(b []byte) (int, error) {
	for {
		n, err := unix.Read(f.fd, b)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, &fs.PathError{Op: "read", Path: f.name, Err: err}
		case n == 0 && len(b) > 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

func (f smallFile) Close() error { return unix.Close(f.fd) }

// maxFile is how long a file may be that is read whole. The mounts of a busy
// node take some hundred KiB.
const maxFile = 4 << 20

// files reads the small files of /proc and /sys into one buffer.
type files struct {
	root fs.FS
	buf  []byte
}

func (f *files) open(name string) (io.ReadCloser, error) {
	if m, ok := f.root.(machine); ok {
		return m.small(name)
	}
	return f.root.Open(name)
}

// text is the content of a file, good until the next call.
func (f *files) text(name string) ([]byte, error) {
	file, err := f.open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if f.buf == nil {
		f.buf = make([]byte, 4<<10)
	}
	n := 0
	for {
		read, err := file.Read(f.buf[n:])
		n += read
		switch {
		case err == io.EOF:
			return f.buf[:n], nil
		case err != nil:
			return nil, err
		case n == maxFile:
			return nil, fmt.Errorf("%s: more than %d bytes", name, maxFile)
		case n == len(f.buf):
			f.buf = append(f.buf, make([]byte, min(n, maxFile-n))...)
		}
	}
}

// number is the only number of a file, good or an error.
func (f *files) number(name string) (uint64, error) {
	text, err := f.text(name)
	if err != nil {
		return 0, err
	}
	n, ok := parseNumber(text)
	if !ok {
		return 0, fmt.Errorf("%s: %w", name, errGarbage)
	}
	return n, nil
}

// limit is the limit that a file holds; 0 for none.
func (f *files) limit(name string) (uint64, error) {
	text, err := f.text(name)
	if err != nil {
		return 0, err
	}
	n, ok := parseLimit(text)
	if !ok {
		return 0, fmt.Errorf("%s: %w", name, errGarbage)
	}
	return n, nil
}

// parseNumber takes digits and one end of line, and nothing else.
func parseNumber(text []byte) (uint64, bool) {
	n, err := strconv.ParseUint(string(bytes.TrimSuffix(text, []byte("\n"))), 10, 64)
	return n, err == nil
}

// noLimit and all above are no limit. The kernel's largest number of bytes is
// rounded down to whole pages; of 64 KiB are the largest in use.
const noLimit = 0x7FFFFFFFFFFF0000

// parseLimit takes a number, or max, which is 0: no limit. So is a limit of 0,
// under which no process could be there to read it.
func parseLimit(text []byte) (uint64, bool) {
	if string(bytes.TrimSuffix(text, []byte("\n"))) == "max" {
		return 0, true
	}
	n, ok := parseNumber(text)
	if n >= noLimit {
		n = 0
	}
	return n, ok
}

// field is the number behind a name, in a file of lines of both.
func field(text []byte, name string) (uint64, bool) {
	for line := range bytes.Lines(text) {
		if rest, ok := bytes.CutPrefix(line, []byte(name)); ok && len(rest) > 0 && rest[0] == ' ' {
			return parseNumber(rest[1:])
		}
	}
	return 0, false
}
