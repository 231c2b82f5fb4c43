package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/weir-run/weir/invoke"
)

// firstPiece is what is taken of a body whose client has not shown yet that it
// sends more.
const firstPiece = 4 << 10

var errUnwanted = errors.New("the upload is not wanted any more")

// ReadAhead reads a body that is known to fit into what is kept. It must have
// come by until; zero is no bound. From then on net/http notices when the
// client leaves, and Context ends. Of a body that is longer, or of unknown
// length, or that the client does not send unasked, nothing is read; the client
// is looked after all the same if the server has ConnContext.
//
// Try calls it. Whoever has a request wait calls it before. The second call
// does nothing. Its error is a *TryError at stage Client.
func (c *Call) ReadAhead(until time.Time) error {
	if !c.looked {
		c.looked = true
		c.fault = c.readAhead(until)
		if c.fault == nil && !c.ended {
			c.watch()
		}
	}
	if c.fault != nil {
		return &TryError{Stage: Client, Final: true, Err: c.fault}
	}
	return nil
}

func (c *Call) readAhead(until time.Time) error {
	r := c.r
	c.length = r.ContentLength
	switch {
	case !hasBody(r):
		c.length, c.ended = 0, true
		return nil
	case c.MaxBody > 0 && c.length > c.MaxBody:
		return invoke.BodyError(r, invoke.ErrBodyTooLarge)
	case c.length < 0, c.length > int64(c.keep()), asksFirst(r) && !wantsUpgrade(r):
		// Of unknown length may also be a conversation, whose first words are
		// not to wait for the last.
		return nil
	}
	if !until.IsZero() {
		control := http.NewResponseController(c.w)
		_ = control.SetReadDeadline(until)
		defer func() { _ = control.SetReadDeadline(time.Time{}) }()
	}
	for _, size := range []int{min(int(c.length), firstPiece), int(c.length)} {
		if err := c.grow(size); err != nil {
			return err
		}
		n, err := io.ReadFull(r.Body, c.kept[len(c.kept):size])
		c.kept = c.kept[:len(c.kept)+n]
		if err != nil {
			return invoke.BodyError(r, err)
		}
	}
	c.ended = true
	return nil
}

// grow makes room for size bytes to be kept.
func (c *Call) grow(size int) error {
	if size <= cap(c.kept) {
		return nil
	}
	if err := c.count(size - cap(c.kept)); err != nil {
		return err
	}
	grown := make([]byte, len(c.kept), size)
	copy(grown, c.kept)
	c.kept = grown
	return nil
}

func (c *Call) count(delta int) error {
	if c.Kept != nil && delta != 0 {
		if err := c.Kept(delta); err != nil {
			return err
		}
	}
	c.counted += delta
	return nil
}

// forget drops what is kept.
func (c *Call) forget() {
	if c.kept != nil {
		c.kept = nil
		_ = c.count(-c.counted)
	}
}

// asksFirst reports whether the client waits to be asked for its body.
func asksFirst(r *http.Request) bool { return hasToken(r.Header["Expect"], "100-continue") }

// watch looks after a client whose body is not read.
func (c *Call) watch() {
	ctx, leave := context.WithCancel(c.ctx)
	if c.client = watchClient(c.ctx, leave); c.client == nil {
		leave()
		return
	}
	c.ctx, c.leave = ctx, leave
}

// body is the source of one upload: first what is kept, then what the client
// sends, which is kept as long as there is room.
type body struct {
	c      *Call
	off    int
	upload *upload
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	c := b.c
	if b.off < len(c.kept) {
		n := copy(p, c.kept[b.off:])
		b.off += n
		return n, nil
	}
	if c.ended {
		return 0, io.EOF
	}
	// Either the one who does not want it any more sees that this reads, or
	// this sees that it is not wanted.
	c.reading.Store(true)
	defer c.reading.Store(false)
	if b.upload.unwanted.Load() {
		return 0, errUnwanted
	}
	n, err := c.r.Body.Read(p)
	b.off += n
	c.tee(p[:n])
	c.ended = err == io.EOF
	c.spent = c.spent || err != nil && err != io.EOF
	return n, err
}

// tee keeps what was read on its way to an upstream.
func (c *Call) tee(p []byte) {
	if c.spent || len(p) == 0 {
		return
	}
	size := len(c.kept) + len(p)
	if size > cap(c.kept) {
		room := min(c.keep(), max(size, 2*cap(c.kept)))
		if size > room || c.grow(room) != nil {
			c.spent = true
			c.forget()
			return
		}
	}
	c.kept = append(c.kept, p...)
}
