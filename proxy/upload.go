package proxy

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-run/weir/invoke"
)

const (
	// copySize is the buffer of a body that does not fit the small ones.
	copySize = 64 << 10
	// chunkRoom holds the size line of a chunk of up to copySize bytes.
	chunkRoom = 8
	// lingerTime is how long a client may go on sending a body that the
	// handler did not want: closing at once could take the answer away from a
	// client that has not read it yet.
	lingerTime = 500 * time.Millisecond
	// lastWrite is how long the last piece of an upload may still be under
	// way when the answer is already complete.
	lastWrite = 100 * time.Millisecond
)

var (
	copyBuffers = sync.Pool{New: func() any { return new([copySize]byte) }}

	errTrailer = errors.New("malformed trailer")
)

// upload sends a long body beside the reading of the answer, so that a handler
// may answer early or while it reads.
type upload struct {
	r      *http.Request
	src    io.Reader
	c      *conn
	length int64 // -1: chunks
	max    int64

	done chan struct{}
	// eof: the client's body was read to its end, which makes the client's
	// connection clean; set before the last of it is written.
	eof atomic.Bool
	// unwanted: the answer is complete or has failed.
	unwanted atomic.Bool
	// err, after done, is why the body could not be read; whole says that all
	// of it was written.
	err   error
	whole bool
}

// startUpload starts the goroutine that endUpload ends.
func (x *exchange) startUpload() {
	u := &upload{r: x.r, src: x.source, c: x.c, length: x.length, max: x.p.MaxBody, done: make(chan struct{})}
	switch {
	case x.call != nil:
		u.max, u.src = x.call.MaxBody, &body{c: x.call, upload: u}
	case u.src == nil:
		u.src = x.r.Body
	default:
		u.eof.Store(true)
	}
	x.upload = u
	go u.run()
}

func (u *upload) run() {
	defer close(u.done)
	if err := u.copy(); err != nil && !u.unwanted.Load() {
		// What was sent must not look complete to the handler.
		u.err = invoke.BodyError(u.r, err)
		u.c.hangUp()
	}
}

// copy returns the fault of the body. That the handler takes no more is none:
// its answer tells.
func (u *upload) copy() error {
	buf := copyBuffers.Get().(*[copySize]byte)
	defer copyBuffers.Put(buf)
	var sent int64
	for {
		n, err := u.src.Read(buf[chunkRoom : copySize-2])
		sent += int64(n)
		switch {
		case u.max > 0 && sent > u.max:
			return invoke.ErrBodyTooLarge
		case err == io.EOF && u.length >= 0 && sent != u.length:
			return io.ErrUnexpectedEOF
		case err == io.EOF:
			u.eof.Store(true)
		}
		if n > 0 && !u.write(buf, n) {
			return nil
		}
		if err == io.EOF {
			return u.finish()
		}
		if err != nil {
			return err
		}
	}
}

// write sends the n bytes that lie behind chunkRoom, in one write, and says
// whether the handler took them.
func (u *upload) write(buf *[copySize]byte, n int) bool {
	if u.unwanted.Load() {
		return false
	}
	b := buf[chunkRoom : chunkRoom+n]
	if u.length < 0 {
		var size [chunkRoom]byte
		line := append(strconv.AppendInt(size[:0], int64(n), 16), '\r', '\n')
		start := chunkRoom - len(line)
		copy(buf[start:], line)
		b = append(buf[start:chunkRoom+n], '\r', '\n')
	}
	_, err := u.c.Write(b)
	return err == nil
}

// finish ends the body with its last chunk and the trailers, which are known
// only now.
func (u *upload) finish() error {
	if u.length < 0 {
		end, ok := appendTrailers([]byte("0\r\n"), u.r.Trailer)
		if !ok {
			return errTrailer
		}
		if _, err := u.c.Write(end); err != nil {
			return nil
		}
	}
	u.whole = true
	return nil
}

// endUpload waits for the upload and returns how the invocation ended: a fault
// of the request's body goes before err, which is what followed from it.
func (x *exchange) endUpload(err error) error {
	u := x.upload
	if u == nil {
		return err
	}
	limited := false // a read deadline is left on the client's connection
	x.awaitFault()
	select {
	case <-u.done:
	default:
		u.unwanted.Store(err != nil || !u.eof.Load())
		if u.unwanted.Load() {
			x.c.hangUp()
			if x.call == nil || x.call.reading.Load() {
				// The read that the upload may be waiting in ends now, or soon.
				_ = http.NewResponseController(x.w).SetReadDeadline(time.Now().Add(lingerTime))
				limited = true
			}
		} else {
			x.c.SetWriteDeadline(time.Now().Add(lastWrite))
		}
		<-u.done
	}
	x.ans.keep = x.ans.keep && u.whole
	if err == nil {
		return nil
	}
	if !x.begun && x.call == nil && (limited || !u.eof.Load()) {
		x.w.Header().Set("Connection", "close")
	}
	if u.err != nil {
		return u.err
	}
	return err
}

// awaitFault waits for the upload where the client passes for gone: net/http
// says that before the upload learns that the body came too late, which is to
// be answered. Its wait for the client is over then, and the one for the
// handler, too: watch has broken that connection.
func (x *exchange) awaitFault() {
	if x.ctx.Err() == nil {
		return
	}
	timer := time.NewTimer(lingerTime)
	defer timer.Stop()
	select {
	case <-x.upload.done:
	case <-timer.C:
	}
}
