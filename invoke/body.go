package invoke

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
)

// ErrBodyTooLarge is wrapped in the RequestError of a body over its bound.
var ErrBodyTooLarge = errors.New("larger than max_body")

// BodyError says whose fault a failed read of r.Body is: context.Canceled when
// the client left, else a *RequestError. err must not be nil or io.EOF.
func BodyError(r *http.Request, err error) error {
	var (
		ours    *RequestError
		tooLong *http.MaxBytesError
		timeout net.Error
	)
	switch {
	case errors.As(err, &ours):
		return err
	case errors.As(err, &tooLong), errors.Is(err, ErrBodyTooLarge):
		return &RequestError{Status: http.StatusRequestEntityTooLarge, Err: ErrBodyTooLarge}
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return &RequestError{Status: http.StatusRequestTimeout, Err: errors.New("not received within read_timeout")}
	case r.Context().Err() != nil:
		return context.Canceled
	}
	return &RequestError{Status: http.StatusBadRequest, Err: err}
}

// ReadBody reads the whole body of r into memory, at most max bytes (0: no
// bound), and fails as BodyError says.
func ReadBody(r *http.Request, max int64) ([]byte, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return nil, nil
	}
	if max > 0 && r.ContentLength > max {
		return nil, BodyError(r, ErrBodyTooLarge)
	}
	src := io.Reader(r.Body)
	if max > 0 {
		src = io.LimitReader(src, max+1)
	}
	var body []byte
	var err error
	if n := r.ContentLength; n > 0 && n <= preallocate {
		body = make([]byte, n)
		_, err = io.ReadFull(src, body)
	} else {
		body, err = io.ReadAll(src)
	}
	if err != nil {
		return nil, BodyError(r, err)
	}
	if max > 0 && int64(len(body)) > max {
		return nil, BodyError(r, ErrBodyTooLarge)
	}
	return body, nil
}

// preallocate is the longest body whose announced length is believed before a
// byte of it was seen.
const preallocate = 1 << 20

// CloseAfterReply makes net/http end the connection of w with its answer, also
// when the head of that is out. Where a body is full-duplex and was not read to
// its end, net/http would look for the next request in the rest of it, when a
// read deadline has passed, or panic for a concurrent read, when it has not. A
// body over its bound is the one thing of which it says so to the server.
func CloseAfterReply(w http.ResponseWriter) {
	for {
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		w = u.Unwrap()
	}
	_, _ = http.MaxBytesReader(w, io.NopCloser(oneByte{}), 0).Read(make([]byte, 1))
}

type oneByte struct{}

func (oneByte) Read(p []byte) (int, error) { return len(p), io.EOF }
