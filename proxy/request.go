package proxy

import (
	"net/http"
	"strconv"
	"strings"
)

// target is what the client asked for, byte for byte; of the absolute form only
// path and query, behind which no authority is left. It says no to forms that
// are not for an origin server: CONNECT's, and URIs of other schemes.
func target(r *http.Request) (string, bool) {
	uri := r.RequestURI
	switch {
	case r.Method == http.MethodConnect:
		return "", false
	case uri == "":
		uri = r.URL.RequestURI()
	case uri == "*":
		return uri, true
	}
	if uri[0] == '/' {
		return uri, true
	}
	_, rest, ok := strings.Cut(uri, "://")
	if !ok {
		return "", false
	}
	path := strings.IndexAny(rest, "/?")
	if path < 0 {
		return "/", true
	}
	if rest[path] == '?' {
		return "/" + rest[path:], true
	}
	return rest[path:], true
}

// ValidHost says whether a Host has only bytes that one may have (RFC 3986,
// 3.2.2). The server in front looks at the header, not at absolute URIs.
func ValidHost(host string) bool {
	for i := range len(host) {
		if c := host[i]; c <= ' ' || c >= 0x7f || strings.IndexByte("\"#/<>?@\\^`{|}", c) >= 0 {
			return false
		}
	}
	return true
}

// appendLine appends the request line and Host.
func (p *Proxy) appendLine(b []byte, r *http.Request, target string) []byte {
	b = append(b, r.Method...)
	b = append(b, ' ')
	if target != "*" {
		b = append(b, p.base...)
	}
	b = append(b, target...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	if r.Host != "" {
		b = append(b, r.Host...)
	} else {
		b = append(b, p.host...)
	}
	return append(b, '\r', '\n')
}

// validPath says whether path can stand in a request line.
func validPath(path string) bool {
	for i := range len(path) {
		if c := path[i]; c <= ' ' || c == 0x7f {
			return false
		}
	}
	return path[0] == '/'
}

// validHeader says whether every header can be sent.
func validHeader(h http.Header) bool {
	for name, values := range h {
		if !validName(name) {
			return false
		}
		for _, value := range values {
			if !validValue(value) {
				return false
			}
		}
	}
	return true
}

// appendHeaders appends the headers that go to the handler, without those that
// frame the body and without the empty line. Those of over replace the
// client's.
func appendHeaders(b []byte, r *http.Request, over http.Header, upgrade, expect bool) []byte {
	named := r.Header["Connection"]
	for name, values := range r.Header {
		if over != nil {
			if _, replaced := over[name]; replaced {
				continue
			}
		}
		switch name {
		case "Connection", "Content-Length", "Host", "Keep-Alive", "Proxy-Authenticate",
			"Proxy-Authorization", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade":
			continue
		case "Expect":
			if !expect {
				continue
			}
		}
		if named != nil && hasToken(named, name) {
			continue
		}
		for _, value := range values {
			b = appendField(b, name, value)
		}
	}
	if te := r.Header["Te"]; te != nil && hasToken(te, "trailers") {
		b = append(b, "Te: trailers\r\n"...)
	}
	for name, values := range over {
		if !trailerAllowed(name) || name == "Expect" {
			continue // those of this connection
		}
		for _, value := range values {
			b = appendField(b, name, value)
		}
	}
	if upgrade {
		b = append(b, "Connection: Upgrade\r\n"...)
		b = appendField(b, "Upgrade", r.Header.Get("Upgrade"))
	}
	return b
}

func appendField(b []byte, name, value string) []byte {
	b = append(b, name...)
	b = append(b, ':', ' ')
	b = append(b, value...)
	return append(b, '\r', '\n')
}

// appendLength appends the Content-Length of a request. Where it is 0 it is
// said only if the client did, or if the method is one that has a body.
func appendLength(b []byte, r *http.Request, length int64) []byte {
	if length == 0 && len(r.Header["Content-Length"]) == 0 {
		switch r.Method {
		case http.MethodPost, http.MethodPut, http.MethodPatch:
		default:
			return b
		}
	}
	b = append(b, "Content-Length: "...)
	b = strconv.AppendInt(b, length, 10)
	return append(b, '\r', '\n')
}

// appendChunked appends the framing headers of a body of unknown length.
func appendChunked(b []byte, r *http.Request) []byte {
	for name := range r.Trailer {
		if trailerAllowed(name) {
			b = appendField(b, "Trailer", name)
		}
	}
	return append(b, "Transfer-Encoding: chunked\r\n"...)
}

// validTrailers checks the names that a request announces.
func validTrailers(announced http.Header) bool {
	for name := range announced {
		if !validName(name) {
			return false
		}
	}
	return true
}

// appendTrailers appends what follows the last chunk, the empty line included.
// It says no when a value cannot be sent.
func appendTrailers(b []byte, trailers http.Header) ([]byte, bool) {
	for name, values := range trailers {
		if !trailerAllowed(name) {
			continue
		}
		for _, value := range values {
			if !validName(name) || !validValue(value) {
				return b, false
			}
			b = appendField(b, name, value)
		}
	}
	return append(b, '\r', '\n'), true
}

// trailerAllowed says whether a field may come after a body: those that frame
// or route a message may not (RFC 9110, 6.5.1).
func trailerAllowed(name string) bool {
	switch name {
	case "Connection", "Content-Length", "Host", "Keep-Alive", "Proxy-Authenticate",
		"Proxy-Authorization", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade":
		return false
	}
	return true
}

// wantsUpgrade says whether the client asks for another protocol. With a body
// that does not fit in memory the wish is not passed on, as a server may.
func wantsUpgrade(r *http.Request) bool {
	return r.ContentLength >= 0 && r.ContentLength <= inlineBody &&
		r.Header.Get("Upgrade") != "" && hasToken(r.Header["Connection"], "upgrade")
}

// Idempotent reports whether a second arrival of a request with that method
// changes nothing (RFC 9110, 9.2.2).
func Idempotent(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

// hasToken says whether a comma-separated list holds the token, in any case.
func hasToken(lists []string, token string) bool {
	for _, list := range lists {
		for list != "" {
			var item string
			item, list, _ = strings.Cut(list, ",")
			if strings.EqualFold(strings.Trim(item, " \t"), token) {
				return true
			}
		}
	}
	return false
}
