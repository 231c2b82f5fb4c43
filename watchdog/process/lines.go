package process

import (
	"bytes"
	"errors"
	"io"
)

// readSize is what is asked of a pipe at once: the kernel hands out at most
// what the pipe holds, 64 KiB by default, and most lines are short.
const readSize = 16 << 10

// keepSize is the largest buffer kept after a long line has gone.
const keepSize = 256 << 10

// CopyLines copies src to dst until src ends, one Write for each line. format
// appends what is written of a line to dst; it gets the line without its
// newline and appends one itself. A nil format appends the line and a newline.
// A line of more than max bytes goes out in pieces of max, each a line of its
// own; max 0 or less is no bound. The last line needs no newline.
//
// It reads on when dst fails, so that the writer at the other end never
// blocks, and returns the first error of dst, else that of src, else nil.
func CopyLines(dst io.Writer, src io.Reader, max int, format func(dst, line []byte) []byte) error {
	lc := lineCopy{dst: dst, max: max, format: format}
	buf := make([]byte, readSize)
	for {
		n, err := src.Read(buf)
		lc.feed(buf[:n])
		if err == nil {
			continue
		}
		if len(lc.rest) > 0 {
			lc.emit(lc.rest)
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
		if lc.err != nil {
			return lc.err
		}
		return err
	}
}

type lineCopy struct {
	dst    io.Writer
	max    int
	format func(dst, line []byte) []byte
	rest   []byte // of a line whose end has not come; with a max, never over it
	out    []byte // the line as it is written
	err    error  // first of dst
}

func (c *lineCopy) feed(p []byte) {
	for len(p) > 0 {
		n := bytes.IndexByte(p, '\n')
		whole := n >= 0
		if !whole {
			n = len(p)
		}
		over := c.max > 0 && len(c.rest)+n > c.max
		if over {
			n, whole = c.max-len(c.rest), false
		}
		line := p[:n]
		if len(c.rest) > 0 || !whole && !over {
			c.rest = append(c.rest, line...)
			line = c.rest
		}
		p = p[n:]
		if whole {
			p = p[1:]
		}
		if whole || over {
			c.emit(line)
			c.rest = shrink(c.rest)
		}
	}
}

func (c *lineCopy) emit(line []byte) {
	if c.err != nil {
		return
	}
	c.out = c.out[:0]
	if c.format != nil {
		c.out = c.format(c.out, line)
	} else {
		c.out = append(append(c.out, line...), '\n')
	}
	_, c.err = c.dst.Write(c.out)
	c.out = shrink(c.out)
}

func shrink(b []byte) []byte {
	if cap(b) > keepSize {
		return nil
	}
	return b[:0]
}
