package gateway

import (
	"crypto/rand"
	"encoding/hex"
	"net"
	"net/http"
	"strings"

	"github.com/weir-run/weir/contract"
)

// maxCallID bounds a caller's own X-Call-Id.
const maxCallID = 64

const wantCallID = contract.HeaderCallID + " is to be 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-'"

// Headers that only the gateway sets.
const (
	headerStartTime     = "X-Start-Time"
	headerForwardedFor  = "X-Forwarded-For"
	headerForwardedHost = "X-Forwarded-Host"
)

// identify takes the caller's X-Call-Id, or makes one. It says no to one that
// cannot be used.
func (c *call) identify() bool {
	given := c.r.Header[contract.HeaderCallID]
	if len(given) == 0 || len(given) == 1 && given[0] == "" {
		c.id = newCallID()
		return true
	}
	if len(given) > 1 || !validCallID(given[0]) {
		c.id = newCallID()
		return false
	}
	c.id = given[0]
	return true
}

func validCallID(id string) bool {
	if id == "" || len(id) > maxCallID {
		return false
	}
	for i := range len(id) {
		switch c := id[i]; {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}

// newCallID is a random UUID (RFC 9562, version 4).
func newCallID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	var s [36]byte
	hex.Encode(s[0:8], b[0:4])
	hex.Encode(s[9:13], b[4:6])
	hex.Encode(s[14:18], b[6:8])
	hex.Encode(s[19:23], b[8:10])
	hex.Encode(s[24:36], b[10:16])
	s[8], s[13], s[18], s[23] = '-', '-', '-', '-'
	return string(s[:])
}

// headers are what the function is told beside what the client says.
func (c *call) headers() {
	v := &c.values
	v[0], v[1], v[2], v[3] = c.id, c.startTime, c.r.Host, forwardedFor(c.r)
	h := make(http.Header, 5)
	h[contract.HeaderCallID] = v[0:1:1]
	h[headerStartTime] = v[1:2:2]
	if c.r.Host != "" && c.r.Header[headerForwardedHost] == nil {
		h[headerForwardedHost] = v[2:3:3]
	}
	if v[3] != "" { // a callback of weir's own came from nobody
		h[headerForwardedFor] = v[3:4:4]
	}
	if c.r.Header[contract.HeaderTry] != nil {
		h[contract.HeaderTry] = nil
	}
	c.try.Header = h
}

// forwardedFor is the client's address behind those that are there. Of an
// asynchronous call it is there since the call was sent.
func forwardedFor(r *http.Request) string {
	peer, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		peer = r.RemoteAddr
	}
	before := strings.Join(r.Header[headerForwardedFor], ", ")
	if before == "" || peer == "" {
		return before + peer
	}
	return before + ", " + peer
}
