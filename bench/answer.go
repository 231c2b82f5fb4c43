package main

import (
	"bytes"
	"errors"
	"strconv"
)

// answer is the little that the generator needs of an HTTP/1.1 response.
type answer struct {
	status int
	// length is how many bytes head and body take.
	length int
	close  bool
}

var (
	errShort  = errors.New("more bytes to come")
	errAnswer = errors.New("not an HTTP/1.1 response")
	headEnd   = []byte("\r\n\r\n")
	lineEnd   = []byte("\r\n")
)

// parseAnswer reads the one response at the start of b: errShort when it is
// not there whole, errAnswer when it never will be. Only framing by
// Content-Length and by chunks is known, since connections are kept.
func parseAnswer(b []byte) (answer, error) {
	if len(b) < len("HTTP/1.1 200") {
		return answer{}, errShort
	}
	status, err := strconv.Atoi(string(b[9:12]))
	if err != nil || status < 100 || !bytes.HasPrefix(b, []byte("HTTP/1.")) {
		return answer{}, errAnswer
	}
	end := bytes.Index(b, headEnd)
	if end < 0 {
		return answer{}, errShort
	}
	a := answer{status: status, length: end + len(headEnd)}
	chunked, body := false, 0
	for rest := b[:end+len(lineEnd)]; ; {
		_, after, _ := bytes.Cut(rest, lineEnd)
		if len(after) == 0 {
			break
		}
		rest = after
		name, value, _ := bytes.Cut(rest[:bytes.Index(rest, lineEnd)], []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case len(name) == 14 && bytes.EqualFold(name, []byte("Content-Length")):
			if body, err = strconv.Atoi(string(value)); err != nil || body < 0 || body > maxAnswer {
				return answer{}, errAnswer
			}
		case len(name) == 17 && bytes.EqualFold(name, []byte("Transfer-Encoding")):
			chunked = true
		case len(name) == 10 && bytes.EqualFold(name, []byte("Connection")):
			a.close = bytes.EqualFold(value, []byte("close"))
		}
	}
	if chunked {
		n, err := chunksLength(b[a.length:])
		a.length += n
		return a, err
	}
	a.length += body
	if len(b) < a.length {
		return answer{}, errShort
	}
	return a, nil
}

// chunksLength is how many bytes a chunked body at the start of b takes, its
// last chunk included; trailers are not known.
func chunksLength(b []byte) (int, error) {
	for at := 0; ; {
		end := bytes.Index(b[at:], lineEnd)
		if end < 0 {
			return 0, errShort
		}
		size, err := strconv.ParseUint(string(b[at:at+end]), 16, 32)
		if err != nil || size > maxAnswer {
			return 0, errAnswer
		}
		at += end + len(lineEnd) + int(size) + len(lineEnd)
		if at > len(b) {
			return 0, errShort
		}
		if !bytes.Equal(b[at-2:at], lineEnd) {
			return 0, errAnswer
		}
		if size == 0 {
			return at, nil
		}
	}
}
