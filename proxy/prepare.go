package proxy

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"

	"github.com/weir-run/weir/invoke"
)

var errTarget = errors.New("the target is not one of an origin server")

// bodyKind is how the request's body gets to the handler.
type bodyKind int

const (
	bodyInline bodyKind = iota // in out, behind the head; may be empty
	bodyAsked                  // small, read when the handler asks for it
	bodyStreamed
)

// prepare builds what is sent first, reading a body that fits in memory.
func (x *exchange) prepare() error {
	r, max := x.r, x.p.MaxBody
	path, ok := target(r)
	if !ok || !ValidHost(r.Host) {
		return &invoke.RequestError{Status: http.StatusBadRequest, Err: errTarget}
	}
	if !validTrailers(r.Trailer) {
		return &invoke.RequestError{Status: http.StatusBadRequest, Err: errTrailer}
	}
	if max > 0 && r.ContentLength > max {
		return invoke.BodyError(r, invoke.ErrBodyTooLarge)
	}
	x.length = r.ContentLength
	has := r.Body != nil && r.Body != http.NoBody && r.ContentLength != 0
	if !has {
		x.length = 0
	}
	x.expect = has && !x.p.BufferBody && hasToken(r.Header["Expect"], "100-continue")
	x.upgrade = wantsUpgrade(r)
	var whole []byte
	if has && x.p.BufferBody {
		var err error
		if whole, err = invoke.ReadBody(r, max); err != nil {
			return err
		}
		x.length = int64(len(whole))
	}
	x.out = appendHeaders(x.p.appendLine(x.out[:0], r, path), r, nil, x.upgrade, x.expect)
	if x.length < 0 {
		x.out = appendChunked(x.out, r)
	} else {
		x.out = appendLength(x.out, r, x.length)
	}
	x.out = append(x.out, '\r', '\n')
	switch {
	case x.length < 0 || x.length > inlineBody:
		x.kind = bodyStreamed
		if whole != nil {
			x.source = bytes.NewReader(whole)
		}
	case x.expect:
		x.kind = bodyAsked
	case whole != nil:
		x.out = append(x.out, whole...)
	case x.length > 0:
		return x.readInline()
	}
	return nil
}

// readInline appends the body to out.
func (x *exchange) readInline() error {
	n, length := len(x.out), int(x.length)
	x.out = slices.Grow(x.out, length)[:n+length]
	if _, err := io.ReadFull(x.r.Body, x.out[n:]); err != nil {
		return invoke.BodyError(x.r, err)
	}
	return nil
}

// prepareCall is prepare for a Call, whose small body was read before. A body
// that was not is announced with an expectation if expect is true.
func (x *exchange) prepareCall(expect bool) error {
	c, r := x.call, x.r
	path, ok := c.Path, true
	if path == "" {
		path, ok = target(r)
	} else {
		ok = validPath(path)
	}
	if !ok || !ValidHost(r.Host) || !validHeader(c.Header) {
		return &invoke.RequestError{Status: http.StatusBadRequest, Err: errTarget}
	}
	if !validTrailers(r.Trailer) {
		return &invoke.RequestError{Status: http.StatusBadRequest, Err: errTrailer}
	}
	x.length = c.length
	x.upgrade = wantsUpgrade(r)
	x.out = appendHeaders(x.p.appendLine(x.out[:0], r, path), r, c.Header, x.upgrade, false)
	if x.length < 0 {
		x.out = appendChunked(x.out, r)
	} else {
		x.out = appendLength(x.out, r, x.length)
	}
	if !c.ended {
		x.kind, x.expect = bodyStreamed, expect
		if expect {
			x.out = append(x.out, "Expect: 100-continue\r\n"...)
		}
		x.out = append(x.out, '\r', '\n')
		return nil
	}
	x.out = append(x.out, '\r', '\n')
	return x.inlineKept()
}

// inlineKept puts the whole body that is kept behind the head.
func (x *exchange) inlineKept() error {
	kept, chunked := x.call.kept, x.length < 0
	if chunked && len(kept) > 0 {
		x.out = strconv.AppendInt(x.out, int64(len(kept)), 16)
		x.out = append(x.out, '\r', '\n')
	}
	if !chunked && len(x.out)+len(kept) > smallRequest {
		x.tail = kept
		return nil
	}
	x.out = append(x.out, kept...)
	if !chunked {
		return nil
	}
	if len(kept) > 0 {
		x.out = append(x.out, '\r', '\n')
	}
	var ok bool
	if x.out, ok = appendTrailers(append(x.out, "0\r\n"...), x.r.Trailer); !ok {
		return &invoke.RequestError{Status: http.StatusBadRequest, Err: errTrailer}
	}
	return nil
}
