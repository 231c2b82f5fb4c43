package guard

import (
	"fmt"

	"github.com/shirou/gopsutil/v3/disk"
)

// space is what a file system has left for us, in bytes or in inodes.
type space struct {
	path   string
	inodes bool
}

// newDisk has bytes and inodes of the file system that path is on. What is
// used is all that is not available to us, so also what is kept for root.
func newDisk(path string) (bytes, inodes source) {
	return space{path: path}, space{path: path, inodes: true}
}

func (s space) read(dst []sample) ([]sample, error) {
	usage, err := disk.Usage(s.path)
	if err != nil {
		return dst, fmt.Errorf("file system of %q: %w", s.path, err)
	}
	total, left := usage.Total, usage.Free
	if s.inodes {
		total, left = usage.InodesTotal, usage.InodesFree
	}
	if total == 0 { // some count no inodes, and some nothing at all
		return dst, errNothing
	}
	return append(dst, sample{used: total - min(total, left), limit: total}), nil
}
