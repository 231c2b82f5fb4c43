package fork

import (
	"bytes"
	"errors"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-run/weir/watchdog/process"
)

// outlet is the end of a pipe from which a process's output is read. After end
// it yields what the pipe holds then and no more, so that a descendant that
// outlives its process cannot hold the answer open, however much it writes.
type outlet struct {
	*os.File
	raw    syscall.RawConn
	ending bool
	left   int // bytes still to be read, once ending
}

func newOutlet() (o *outlet, theirs *os.File, err error) {
	ours, theirs, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	raw, err := ours.SyscallConn()
	if err != nil {
		_, _ = ours.Close(), theirs.Close()
		return nil, nil, err
	}
	return &outlet{File: ours, raw: raw}, theirs, nil
}

// end may be called beside Read.
func (o *outlet) end() { _ = o.SetReadDeadline(past) }

// Read is for one goroutine.
func (o *outlet) Read(p []byte) (int, error) {
	if !o.ending {
		n, err := o.File.Read(p)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		o.ending = true
		o.left = o.held()
	}
	if o.left <= 0 {
		return 0, io.EOF
	}
	n := o.take(p[:min(len(p), o.left)])
	o.left -= n
	if n <= 0 {
		return 0, io.EOF
	}
	return n, nil
}

// held is how many bytes the pipe holds (TIOCINQ is FIONREAD by its other name).
func (o *outlet) held() (n int) {
	_ = o.raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	return n
}

// take reads what is there without waiting, which a deadline in the past lets
// no *os.File do.
func (o *outlet) take(p []byte) (n int) {
	_ = o.raw.Control(func(fd uintptr) {
		for {
			var err error
			if n, err = unix.Read(int(fd), p); !errors.Is(err, unix.EINTR) {
				return
			}
		}
	})
	return n
}

// writeNow writes what the pipe f takes without waiting.
func writeNow(f *os.File, p []byte) (n int, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	werr := raw.Write(func(fd uintptr) bool {
		n, err = unix.Write(int(fd), p)
		return !errors.Is(err, unix.EINTR)
	})
	if errors.Is(err, unix.EAGAIN) {
		return 0, nil
	}
	return max(n, 0), errors.Join(err, werr)
}

// log passes the lines of standard error on. A process that writes none, as
// most do, costs no buffer.
func (c *call) log() {
	var room [256]byte
	n, _ := c.stderr.Read(room[:])
	if n <= 0 {
		return
	}
	format := linePrefix
	if !c.h.PrefixLogs {
		format = nil
	}
	src := io.MultiReader(bytes.NewReader(room[:n]), c.stderr)
	// A log that takes no more lines has nobody left to be told.
	_ = process.CopyLines(c.h.Stderr, src, c.h.LogBufferSize, format)
}

func linePrefix(dst, line []byte) []byte {
	dst = time.Now().AppendFormat(dst, "2006/01/02 15:04:05 stderr: ")
	dst = append(dst, line...)
	return append(dst, '\n')
}
