package proxy

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
)

// maxChunkLine bounds the size line of a chunk with its extensions; net/http
// takes no longer ones.
const maxChunkLine = 4<<10 - 2

var errChunk = errors.New("malformed chunk")

// reader is a buffer over a connection.
type reader struct {
	src  *conn
	buf  []byte
	r, w int
	// total bytes of this exchange, and those of its heads.
	total, heads int
	// small is the own buffer while a body borrows a large one.
	small []byte
	large *[copySize]byte
	// full: the last read took all the room there was.
	full bool
}

func (b *reader) buffered() []byte { return b.buf[b.r:b.w] }
func (b *reader) skip(n int)       { b.r += n }

// fill reads once, making room where there is none.
func (b *reader) fill() error {
	switch {
	case b.r == b.w:
		b.r, b.w = 0, 0
	case b.w == len(b.buf) && b.r > 0:
		b.w = copy(b.buf, b.buf[b.r:b.w])
		b.r = 0
	}
	if b.w == len(b.buf) {
		grown := make([]byte, 2*len(b.buf))
		b.w = copy(grown, b.buf)
		b.buf = grown
	}
	n, err := b.src.Read(b.buf[b.w:])
	b.took(n)
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// took counts n bytes that were read.
func (b *reader) took(n int) {
	b.w += n
	b.total += n
	b.full = b.w == len(b.buf)
}

// borrow takes a large buffer for a body that fills the small one.
func (b *reader) borrow() {
	if b.large == nil && b.full && b.r == b.w {
		b.large = copyBuffers.Get().(*[copySize]byte)
		b.small, b.buf, b.r, b.w = b.buf, b.large[:], 0, 0
	}
}

// reset drops what is buffered and every buffer but the small one.
func (b *reader) reset() {
	if b.large != nil {
		copyBuffers.Put(b.large)
		b.buf = b.small
	}
	if len(b.buf) > inSize {
		b.buf = make([]byte, inSize)
	}
	*b = reader{buf: b.buf}
}

// copyBody sends the content of the answer, as its head frames it.
func (x *exchange) copyBody() error {
	switch {
	case x.ans.chunked:
		return x.copyChunks()
	case x.ans.length >= 0:
		return x.copyContent(x.ans.length, x.ans.stream)
	}
	x.ans.keep = false
	err := x.copyContent(-1, true)
	if err == io.EOF {
		return nil
	}
	return err
}

// copyContent sends n bytes, or, when n is negative, all there are until
// io.EOF. With stream everything is flushed before a wait for more.
func (x *exchange) copyContent(n int64, stream bool) error {
	for n != 0 {
		b := x.in.buffered()
		if len(b) == 0 {
			if err := x.more(stream); err != nil {
				return err
			}
			continue
		}
		if n >= 0 && int64(len(b)) > n {
			b = b[:n]
		}
		if _, err := x.w.Write(b); err != nil {
			return clientError{err}
		}
		x.in.skip(len(b))
		if n > 0 {
			n -= int64(len(b))
		}
	}
	return nil
}

// more reads on. What the client has not got yet is flushed first, unless
// there is more to read at once.
func (x *exchange) more(flush bool) error {
	if flush && !x.c.readable() {
		if err := http.NewResponseController(x.w).Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return clientError{err}
		}
	}
	x.in.borrow()
	return x.fill()
}

// copyChunks sends the content of chunks, and the trailers.
func (x *exchange) copyChunks() error {
	for {
		line, err := x.chunkLine()
		if err != nil {
			return err
		}
		size, err := chunkSize(line)
		if err != nil {
			return err
		}
		if size == 0 {
			return x.trailer()
		}
		if err := x.copyContent(size, true); err != nil {
			return err
		}
		if line, err = x.chunkLine(); err != nil {
			return err
		}
		if len(line) > 0 {
			return errChunk
		}
	}
}

// chunkLine returns the next line, which ends in CRLF, without it. It is valid
// until the next read.
func (x *exchange) chunkLine() ([]byte, error) {
	for {
		b := x.in.buffered()
		if n := bytes.IndexByte(b, '\n'); n >= 0 {
			if n == 0 || n > maxChunkLine || b[n-1] != '\r' || bytes.IndexByte(b[:n-1], '\r') >= 0 {
				return nil, errChunk
			}
			x.in.skip(n + 1)
			return b[:n-1], nil
		}
		if len(b) > maxChunkLine {
			return nil, errChunk
		}
		if err := x.more(true); err != nil {
			return nil, err
		}
	}
}

// chunkSize reads the hexadecimal size in front of a chunk's extensions.
func chunkSize(line []byte) (int64, error) {
	if i := bytes.IndexByte(line, ';'); i >= 0 {
		line = line[:i]
	}
	line = bytes.TrimRight(line, " \t")
	// 15 digits cannot overflow.
	if len(line) == 0 || len(line) > 15 {
		return 0, errChunk
	}
	var n int64
	for _, c := range line {
		switch {
		case digit(c):
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, errChunk
		}
		n = n<<4 | int64(c)
	}
	return n, nil
}

// announce says which trailers will come.
func (x *exchange) announce(h http.Header) {
	if !x.ans.chunked {
		return
	}
	for _, list := range x.ans.trailers {
		for name := range strings.SplitSeq(list, ",") {
			name = http.CanonicalHeaderKey(strings.Trim(name, " \t"))
			if validName(name) && trailerAllowed(name) && !x.ans.reserved(name) {
				h.Add("Trailer", name)
			}
		}
	}
}

// trailer reads the fields behind the last chunk and passes them on.
func (x *exchange) trailer() error {
	from := 0
	for {
		b := x.in.buffered()
		if bytes.HasPrefix(b, []byte("\r\n")) {
			x.in.skip(2)
			return nil
		}
		n, whole := headEnd(b, from)
		if x.in.heads+n > maxHead {
			return errHeadSize
		}
		if whole {
			x.in.skip(n)
			return x.passTrailer(string(b[:n]))
		}
		from = max(0, n-3)
		if err := x.more(true); err != nil {
			return err
		}
	}
}

func (x *exchange) passTrailer(block string) error {
	if strings.Count(block, "\n") != strings.Count(block, "\r\n") {
		return errChunk // as everywhere in a chunked body
	}
	fields, err := parseFields(x.ans.fields[:0], block)
	if err != nil {
		return err
	}
	x.ans.fields = fields
	h := x.w.Header()
	announced := h["Trailer"]
	flushed := false
	for _, f := range fields {
		if !trailerAllowed(f.name) || x.ans.reserved(f.name) {
			continue
		}
		if hasToken(announced, f.name) {
			h.Add(f.name, f.value)
			continue
		}
		if !flushed {
			// A short answer would go out with a Content-Length, which leaves
			// no place for trailers that were not announced.
			_ = http.NewResponseController(x.w).Flush()
			flushed = true
		}
		h.Add(http.TrailerPrefix+f.name, f.value)
	}
	return nil
}
