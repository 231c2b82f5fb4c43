package proxy

import (
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A machine that vanishes is noticed by the kernel after Silence, where one is
// set; else the kernel's own patience holds.
func TestSilence(t *testing.T) {
	upstream := httptest.NewServer(http.NotFoundHandler())
	defer upstream.Close()
	for _, silence := range []time.Duration{0, 30 * time.Second} {
		p, err := New(upstream.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		p.Silence = silence
		c, err := p.dial(t.Context(), time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		raw, err := c.Conn.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if err := raw.Control(func(fd uintptr) {
			got, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
			if err != nil || got != int(silence.Milliseconds()) {
				t.Errorf("TCP_USER_TIMEOUT %d ms, %v; expected %v", got, err, silence)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
}
