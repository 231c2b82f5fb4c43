package queue_test

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-run/weir/function"
	"github.com/weir-run/weir/queue"
	"github.com/weir-run/weir/queue/queuetest"
)

// overNetwork sends callbacks for real, at once and without waits between
// tries. Loopback is allowed unless cfg says otherwise.
func overNetwork(t *testing.T, cfg queue.CallbackConfig) *senders {
	t.Helper()
	if cfg.Allow == nil {
		cfg.Allow = []string{"127.0.0.0/8", "::1"}
	}
	if cfg.MaxBody == 0 {
		cfg.MaxBody = 1 << 20
	}
	cfg.Retry = function.Retry{Attempts: 4, Jitter: function.NoJitter, MinWait: time.Millisecond, MaxWait: time.Millisecond}
	s := newSenders(t, cfg, queuetest.Config{}, nil)
	s.network = nil
	var err error
	s.CallbackSender, err = queue.NewCallbackSender(cfg, queue.CallbackParts{Store: s.memory.Store(), Log: s.logger()})
	if err != nil {
		t.Fatal(err)
	}
	_, kill := begin(s.CallbackSender)
	t.Cleanup(kill)
	return s
}

// outcome waits until a callback has ended.
func (s *senders) outcome(id queue.ID) queue.Callback {
	s.t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if got := s.of(id); got.State.Ended() {
			return got
		}
	}
	s.t.Fatalf("a callback has not ended: %+v", s.of(id))
	return queue.Callback{}
}

func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server
}

func TestCallbackOverTheNetwork(t *testing.T) {
	var got *http.Request
	var body []byte
	server := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
	})
	s := overNetwork(t, queue.CallbackConfig{})
	if outcome := s.outcome(s.give(1, server.URL+"/hook%2Fx?k=v")); outcome.State != queue.Succeeded || outcome.Code != 200 {
		t.Fatalf("%+v", outcome)
	}
	if got.Method != "POST" || got.RequestURI != "/hook%2Fx?k=v" || string(body) != "result" || got.ContentLength != 6 || got.Header.Get("X-Call-Id") != "trace-1" || got.Header.Get("Content-Type") != "text/plain" {
		t.Errorf("%+v with %q", got, body)
	}
}

// It refuses connections, cuts them, says 500, and then takes it.
func TestCallbackToAFlakyReceiver(t *testing.T) {
	var tries atomic.Int32
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch tries.Add(1) {
		case 1:
			panic(http.ErrAbortHandler)
		case 2:
			w.WriteHeader(500)
		case 3:
			c, _, _ := w.(http.Hijacker).Hijack()
			_, _ = c.Write([]byte("HTTP/1.1 2"))
			_ = c.Close()
		}
	})
	s := overNetwork(t, queue.CallbackConfig{})
	if got := s.outcome(s.give(1, server.URL)); got.State != queue.Succeeded || got.Attempts != 4 || tries.Load() != 4 {
		t.Errorf("%+v after %d tries", got, tries.Load())
	}
	server.Close()
	if got := s.outcome(s.give(2, server.URL)); got.State != queue.Failed || got.Attempts != 4 || !strings.Contains(got.Reason, "refused") {
		t.Errorf("nobody listens: %+v", got)
	}
}

func TestCallbackToASlowReceiver(t *testing.T) {
	enough := make(chan struct{})
	server := serve(t, func(http.ResponseWriter, *http.Request) { <-enough })
	defer close(enough)
	s := overNetwork(t, queue.CallbackConfig{Timeout: 200 * time.Millisecond})
	if got := s.outcome(s.give(1, server.URL+"/never")); got.State != queue.Failed || got.Attempts != 4 || got.Reason != "no answer in time" {
		t.Errorf("it never answers: %+v", got)
	}

	// It takes connections and says nothing, not even in TLS.
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if got := s.outcome(s.give(3, "https://"+silent.Addr().String())); got.State != queue.Failed || got.Attempts != 4 {
		t.Errorf("it says nothing: %+v", got)
	}
}

// The status has said it all, so no more than the timeout is spent on the rest.
func TestCallbackWhoseAnswerNeverEnds(t *testing.T) {
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			_, _ = w.Write([]byte("x"))
			_ = http.NewResponseController(w).Flush()
			time.Sleep(10 * time.Millisecond)
		}
	})
	// Long for the status to come on a machine that has much to do.
	s := overNetwork(t, queue.CallbackConfig{Timeout: 5 * time.Second})
	if got := s.outcome(s.give(1, server.URL)); got.State != queue.Succeeded || got.Attempts != 1 {
		t.Errorf("its answer never ends: %+v", got)
	}
}

func TestCallbackAnswerIsBounded(t *testing.T) {
	var sent atomic.Int64
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/head" {
			for range 200 {
				w.Header().Add("X-Long", strings.Repeat("x", 1000))
			}
			return
		}
		for range 1 << 12 {
			n, err := w.Write(make([]byte, 1<<16))
			sent.Add(int64(n))
			if err != nil {
				return
			}
		}
	})
	s := overNetwork(t, queue.CallbackConfig{})
	if got := s.outcome(s.give(1, server.URL+"/body")); got.State != queue.Succeeded {
		t.Errorf("a huge body: %+v", got)
	}
	server.CloseClientConnections()
	if n := sent.Load(); n > 64<<20 {
		t.Errorf("%d bytes were taken", n)
	}
	if got := s.outcome(s.give(2, server.URL+"/head")); got.State != queue.Failed || got.Attempts != 4 {
		t.Errorf("a huge head: %+v", got)
	}
}

func TestCallbackFollowsNoRedirect(t *testing.T) {
	var followed atomic.Bool
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/there" {
			followed.Store(true)
		}
		http.Redirect(w, r, "/there", http.StatusTemporaryRedirect)
	})
	s := overNetwork(t, queue.CallbackConfig{})
	if got := s.outcome(s.give(1, server.URL+"/here")); got.State != queue.Failed || got.Code != 307 || followed.Load() {
		t.Errorf("%+v, followed: %t", got, followed.Load())
	}
}

func TestCallbackVerifiesTLS(t *testing.T) {
	var came atomic.Int32
	server := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { came.Add(1) }))
	defer server.Close()
	server.Config.ErrorLog = nil
	s := overNetwork(t, queue.CallbackConfig{})
	if got := s.outcome(s.give(1, server.URL)); got.State != queue.Failed || !strings.Contains(got.Reason, "certificate") || came.Load() != 0 {
		t.Errorf("of an unknown authority: %+v, came %d", got, came.Load())
	}
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	s = overNetwork(t, queue.CallbackConfig{RootCAs: roots})
	if got := s.outcome(s.give(1, server.URL)); got.State != queue.Succeeded || came.Load() != 1 {
		t.Errorf("%+v, came %d", got, came.Load())
	}
	// Its certificate is for example.com and 127.0.0.1.
	local := resolver(t, func(string) []netip.Addr { return []netip.Addr{netip.MustParseAddr("127.0.0.1")} })
	s = overNetwork(t, queue.CallbackConfig{RootCAs: roots, Resolver: local})
	port := server.URL[strings.LastIndexByte(server.URL, ':'):]
	if got := s.outcome(s.give(1, "https://other.example"+port)); got.State != queue.Failed || came.Load() != 1 {
		t.Errorf("under another name: %+v, came %d", got, came.Load())
	}
}

// A name that has a harmless address when it is looked at, and another one when
// it is dialled, and names that have both.
func TestCallbackJudgesTheAddressThatIsDialled(t *testing.T) {
	var came atomic.Int32
	server := serve(t, func(http.ResponseWriter, *http.Request) { came.Add(1) })
	u, _ := url.Parse(server.URL)
	loopback, mapped := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::ffff:127.0.0.1")
	for name, addrs := range map[string][]netip.Addr{
		"rebound.example": {loopback},
		"mapped.example":  {mapped},
		"both.example":    {netip.MustParseAddr("169.254.169.254"), loopback, netip.MustParseAddr("::1"), netip.MustParseAddr("fe80::1")},
	} {
		looks := resolver(t, func(string) []netip.Addr { return addrs })
		s := overNetwork(t, queue.CallbackConfig{Resolver: looks, Allow: []string{"10.255.255.1"}})
		if err := s.Check("http://" + name + ":" + u.Port()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		got := s.outcome(s.give(1, "http://"+name+":"+u.Port()+"/"))
		if got.State != queue.Failed || got.Attempts != 0 || !strings.Contains(got.Reason, "WEIR_CALLBACK_ALLOW") || came.Load() != 0 {
			t.Errorf("%s: %+v, came %d", name, got, came.Load())
		}
	}
	for _, allow := range []string{"127.0.0.1", "receiver.example", "127.0.0.0/8"} {
		before := came.Load()
		looks := resolver(t, func(string) []netip.Addr {
			return []netip.Addr{loopback}
		})
		s := overNetwork(t, queue.CallbackConfig{Resolver: looks, Allow: []string{allow}})
		if got := s.outcome(s.give(1, "http://receiver.example:"+u.Port()+"/")); got.State != queue.Succeeded || came.Load() != before+1 {
			t.Errorf("allowed by %s: %+v", allow, got)
		}
	}
}

// One refused address among others is no reason to give up the others.
func TestCallbackTriesTheAddressesThatAreNotRefused(t *testing.T) {
	server := serve(t, func(http.ResponseWriter, *http.Request) {})
	u, _ := url.Parse(server.URL)
	looks := resolver(t, func(string) []netip.Addr {
		return []netip.Addr{netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.1")}
	})
	s := overNetwork(t, queue.CallbackConfig{Resolver: looks, Allow: []string{"127.0.0.1"}})
	if got := s.outcome(s.give(1, "http://receiver.example:"+u.Port()+"/")); got.State != queue.Succeeded {
		t.Errorf("%+v", got)
	}
	server.Close() // the one that may be dialled may be back later
	if got := s.outcome(s.give(2, "http://receiver.example:"+u.Port()+"/")); got.State != queue.Failed || got.Attempts != 4 {
		t.Errorf("%+v", got)
	}
}

func TestCallbackToThisHostIsRefused(t *testing.T) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	s := overNetwork(t, queue.CallbackConfig{Allow: []string{"receiver.example"}})
	for _, a := range addrs {
		ip := a.(*net.IPNet).IP
		if err := s.Check("http://" + net.JoinHostPort(ip.String(), "80") + "/"); err == nil {
			t.Errorf("%s is taken", ip)
		}
	}
}

func TestCallbackConnectionsAreUsedAgain(t *testing.T) {
	var mu sync.Mutex
	from := map[string]bool{}
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		from[r.RemoteAddr] = true
		_, _ = io.WriteString(w, "thank you")
	})
	s := overNetwork(t, queue.CallbackConfig{})
	for i := range 100 {
		s.outcome(s.give(i, server.URL))
	}
	mu.Lock()
	defer mu.Unlock()
	if len(from) > queue.AtReceiver {
		t.Errorf("100 callbacks over %d connections", len(from))
	}
}

// resolver answers DNS with what is said of a name, by a server of its own.
func resolver(t *testing.T, say func(name string) []netip.Addr) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		buf := make([]byte, 1<<12)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if answer := answerDNS(buf[:n], say); answer != nil {
				_, _ = conn.WriteTo(answer, from)
			}
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

// answerDNS answers a query for one name (RFC 1035) with its addresses of the
// kind that is asked for.
func answerDNS(query []byte, say func(name string) []netip.Addr) []byte {
	var labels []string
	at := 12
	for at < len(query) && query[at] != 0 {
		end := at + 1 + int(query[at])
		if end >= len(query) {
			return nil
		}
		labels = append(labels, string(query[at+1:end]))
		at = end
	}
	at += 5
	if at > len(query) {
		return nil
	}
	kind := binary.BigEndian.Uint16(query[at-4:])
	out := append([]byte{query[0], query[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, query[12:at]...)
	count := uint16(0)
	for _, addr := range say(strings.Join(labels, ".")) {
		if (kind == 1) != addr.Is4() || kind != 1 && kind != 28 {
			continue
		}
		raw := addr.AsSlice()
		out = append(out, 0xc0, 12, 0, byte(kind), 0, 1, 0, 0, 0, 0, 0, byte(len(raw)))
		out = append(out, raw...)
		count++
	}
	binary.BigEndian.PutUint16(out[6:], count)
	return out
}

// The whole request, byte by byte as far as it matters.
func TestCallbackRequestIsPlain(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	got := make(chan *http.Request, 1)
	go func() {
		c, err := listener.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		r, err := http.ReadRequest(bufio.NewReader(c))
		if err == nil {
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		}
		got <- r
	}()
	s := overNetwork(t, queue.CallbackConfig{})
	m := &queue.Message{Function: function.Ref{Name: "f", Namespace: "fn"}, Callback: "http://" + listener.Addr().String() + "/"}
	answer := &queue.Answer{Status: 200, Header: http.Header{"X-Bad": {"a\r\nInjected: yes", "fine"}, "Bad Name": {"x"}, "Transfer-Encoding": {"chunked"}, "Host": {"other"}, "User-Agent": {"mine"}}}
	if err := s.Put(context.Background(), m, callID(1), &queue.Call{State: queue.Succeeded, Code: 200, Ended: time.Now()}, answer); err != nil {
		t.Fatal(err)
	}
	if outcome := s.outcome(callID(1)); outcome.State != queue.Succeeded {
		t.Fatalf("%+v", outcome)
	}
	r := <-got
	if r == nil || r.Host != listener.Addr().String() || r.TransferEncoding != nil || r.ContentLength != 0 || r.Header.Get("Injected") != "" ||
		r.Header.Get("User-Agent") != "mine" || len(r.Header["X-Bad"]) != 1 || r.Proto != "HTTP/1.1" {
		t.Errorf("%+v", r)
	}
}
