package guard

import (
	"errors"
	"io/fs"
)

// errNothing is returned by a source when there is nothing to read now and
// nothing is wrong: no handler process yet, a file system without inodes.
var errNothing = errors.New("nothing to read")

// sample is one reading of one thing that can run out. Used is more than limit
// where a limit was lowered below what is used. Limit 0: none is known.
type sample struct{ used, limit uint64 }

// source appends its samples to dst. Where there are several they are levels,
// the process's own, innermost one first. One goroutine uses a source; no
// error, and nothing that the machine says, makes it unusable for good: the
// next read starts anew.
type source interface {
	read(dst []sample) ([]sample, error)
}

type noSource struct{}

func (noSource) read(dst []sample) ([]sample, error) { return dst, errNothing }

func newMemory(root fs.FS) source                     { return noSource{} }
func newPids(root fs.FS) source                       { return noSource{} }
func newOwnFds(root fs.FS) source                     { return noSource{} }
func newHandlerFds(root fs.FS, pid func() int) source { return noSource{} }
func newDisk(path string) (bytes, inodes source)      { return noSource{}, noSource{} }
