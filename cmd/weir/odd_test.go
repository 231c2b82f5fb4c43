package main_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// TestOddClients: what is sent byte by byte, and how the answer begins. A
// request that two programs could read in two ways is read in one, or refused.
func TestOddClients(t *testing.T) {
	t.Parallel()
	p := local(t, "functions:\n"+function(t, "echo", nil, asleep))
	p.get("/function/echo").check(t, http.StatusOK)
	const host, end = "Host: x\r\n", "Connection: close\r\n\r\n"
	get := func(target string) string { return "GET " + target + " HTTP/1.1\r\n" + host + end }
	post := func(head, body string) string {
		return "POST /function/echo/p HTTP/1.1\r\n" + host + head + end + body
	}
	for name, c := range map[string]struct {
		request string
		half    bool
		answers []string // each begins with this, in order; one more is a fault
		words   string
	}{
		"HTTP/1.0":                   {request: "GET /function/echo/a?b=c HTTP/1.0\r\n\r\n", answers: []string{"HTTP/1.0 200"}, words: "GET /a?b=c 0"},
		"HTTP/1.0 in chunks":         {request: "POST /function/echo HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", answers: []string{"HTTP/1.0 200"}},
		"one after the other":        {request: "GET /function/echo/1 HTTP/1.1\r\n" + host + "\r\n" + "GET /function/echo/2 HTTP/1.1\r\n" + host + "\r\n" + get("/function/echo/3"), answers: []string{"HTTP/1.1 200", "HTTP/1.1 200", "HTTP/1.1 200"}, words: "GET /3 0"},
		"a long head":                {request: "GET /function/echo HTTP/1.1\r\n" + host + "X: " + strings.Repeat("x", 60000) + "\r\n" + end, answers: []string{"HTTP/1.1 200"}},
		"a head that is too long":    {request: "GET /function/echo HTTP/1.1\r\n" + host + "X: " + strings.Repeat("x", 100000) + "\r\n" + end, answers: []string{"HTTP/1.1 431"}},
		"half closed":                {request: get("/function/echo?ms=5000"), half: true},
		"half closed within a body":  {request: post("Content-Length: 9\r\n", "short"), half: true},
		"what it expects, with room": {request: post("Content-Length: 5\r\nExpect: 100-continue\r\n", "hello"), answers: []string{"HTTP/1.1 100", "HTTP/1.1 200"}, words: "POST /p 5"},
		"expects what there is not":  {request: post("Content-Length: 5\r\nExpect: money\r\n", "hello"), answers: []string{"HTTP/1.1 417"}},
		"two lengths":                {request: post("Content-Length: 4\r\nContent-Length: 5\r\n", "hello"), answers: []string{"HTTP/1.1 400"}},
		"one length twice":           {request: post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"), answers: []string{"HTTP/1.1 200"}, words: "POST /p 5"},
		"a length with a sign":       {request: post("Content-Length: +5\r\n", "hello"), answers: []string{"HTTP/1.1 400"}},
		"length and chunks":          {request: post("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\nGET /function/echo/smuggled HTTP/1.1\r\n"), answers: []string{"HTTP/1.1 200"}, words: "POST /p 0"},
		"chunked, oddly":             {request: post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"), answers: []string{"HTTP/1.1 501"}},
		"chunked twice":              {request: post("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n"), answers: []string{"HTTP/1.1 501"}},
		"a space before the colon":   {request: post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"), answers: []string{"HTTP/1.1 400"}},
		"a chunk that is none":       {request: post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\nzz\r\n"), answers: []string{"HTTP/1.1 400"}, words: "request body"},
		"lines without CR":           {request: post("Transfer-Encoding: chunked\r\n", "5\nhello\n0\n\n"), answers: []string{"HTTP/1.1 400"}},
		"OPTIONS *":                  {request: "OPTIONS * HTTP/1.1\r\n" + host + end, answers: []string{"HTTP/1.1 200"}},
		"CONNECT":                    {request: "CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n" + end, answers: []string{"HTTP/1.1 400"}},
		"a whole URL":                {request: get("http://elsewhere.example/function/echo/a?b"), answers: []string{"HTTP/1.1 200"}, words: "GET /a?b 0"},
		"a whole URL of a function":  {request: get("http://echo.default/a"), answers: []string{"HTTP/1.1 200"}, words: "GET /a 0"},
		"a whole URL of the system":  {request: get("http://elsewhere.example/system/functions"), answers: []string{"HTTP/1.1 401"}},
		"an open proxy":              {request: get("http://example.com/"), answers: []string{"HTTP/1.1 404"}},
		"no host":                    {request: "GET /function/echo HTTP/1.1\r\n" + end, answers: []string{"HTTP/1.1 400"}},
		"two hosts":                  {request: "GET /function/echo HTTP/1.1\r\n" + host + host + end, answers: []string{"HTTP/1.1 400"}},
		"a host that is none":        {request: "GET /function/echo HTTP/1.1\r\nHost: a b\r\n" + end, answers: []string{"HTTP/1.1 400"}},
		"a method that is none":      {request: "G@T /function/echo HTTP/1.1\r\n" + host + end, answers: []string{"HTTP/1.1 400"}},
		"a method of its own":        {request: "BREW /function/echo HTTP/1.1\r\n" + host + end, answers: []string{"HTTP/1.1 200"}, words: "BREW / 0"},
		"a space in the target":      {request: get("/function/echo/a b"), answers: []string{"HTTP/1.1 400"}},
		"not the system's spelling":  {request: get("/%73ystem/functions"), answers: []string{"HTTP/1.1 404"}},
		"a zero in a header":         {request: "GET /function/echo HTTP/1.1\r\n" + host + "A: b\x00c\r\n" + end, answers: []string{"HTTP/1.1 400"}},
		"HTTP/9.9":                   {request: "GET /function/echo HTTP/9.9\r\n" + host + end, answers: []string{"HTTP/1.1 505"}},
	} {
		t.Run(name, func(t *testing.T) {
			back := p.raw(c.half, c.request)
			n := strings.Count(back, "HTTP/1.")
			rest := back
			for _, answer := range c.answers {
				i := strings.Index(rest, answer)
				if i < 0 {
					t.Fatalf("%.600q, want %q", back, c.answers)
				}
				rest = rest[i+len(answer):]
			}
			// After a request whose framing was odd another one may be refused.
			if n > len(c.answers) && !strings.HasPrefix(name, "length and") || !strings.Contains(back, c.words) {
				t.Errorf("%.600q, want %q with %q", back, c.answers, c.words)
			}
			if strings.Contains(back, "smuggled") {
				t.Errorf("what was in a body was called: %q", back)
			}
		})
	}
	t.Run("headers of its own", func(t *testing.T) {
		a := p.get("/function/echo/dump", "X-Weir-Try: 7", "X-Forwarded-For: 192.0.2.1", "Connection: X-Secret", "X-Secret: 1", "X-Start-Time: 1")
		a.check(t, http.StatusOK, "X-Forwarded-For: 192.0.2.1, 127.0.0.1")
		for _, gone := range []string{"X-Weir-Try", "X-Secret", "X-Start-Time: 1\r"} {
			if strings.Contains(a.text, gone) {
				t.Errorf("%s went on: %q", gone, a.text)
			}
		}
	})
}

// TestMetricsPage: every line is one that Prometheus reads, and no label is a
// stranger's.
func TestMetricsPage(t *testing.T) {
	t.Parallel()
	p := local(t, "functions:\n"+function(t, "echo", nil, asleep))
	p.get("/function/echo").check(t, http.StatusOK)
	for i := range 50 {
		p.get(fmt.Sprintf("/function/stranger%d", i)).check(t, http.StatusNotFound)
	}
	response, err := client.Get(p.MetricsURL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"gateway_function_invocation_total", "gateway_functions_seconds", "gateway_service_count", "weir_wakes_total", "weir_wake_scale_seconds", "weir_leading"} {
		if families[name] == nil {
			t.Errorf("no %s", name)
		}
	}
	for name, family := range families {
		if family.GetHelp() == "" {
			t.Errorf("%s has no help", name)
		}
		for _, m := range family.GetMetric() {
			for _, l := range m.GetLabel() {
				if strings.Contains(l.GetValue(), "stranger") {
					t.Errorf("%s has a stranger's %s", name, l)
				}
			}
		}
	}
}

// TestNothingLeaks: after many calls weir has the goroutines and descriptors
// that it had after the first ones.
func TestNothingLeaks(t *testing.T) {
	t.Parallel()
	p := local(t, "functions:\n"+function(t, "echo", nil, []string{`weir/max: "1"`}))
	p.get("/function/echo").check(t, http.StatusOK)
	burst := func() {
		for range 10 {
			if n := p.calls(50, "/function/echo")(); n != 50 {
				t.Errorf("%d of 50 calls were answered", n)
			}
		}
		for range 20 {
			p.raw(true, "POST /function/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nshort")
		}
	}
	measure := func() (goroutines, descriptors float64) {
		return p.metric("go_goroutines"), p.metric("process_open_fds")
	}
	burst()
	goroutines, descriptors := measure()
	if goroutines == 0 || descriptors == 0 {
		t.Fatal("the metrics page has neither goroutines nor descriptors")
	}
	burst()
	burst()
	// Two connections to the pod make one goroutine and descriptor more each,
	// if both bursts did not need as many; a leak is one for each call.
	const slack = 40
	p.Until("there are no more goroutines and descriptors than before", func() bool {
		g, d := measure()
		return g <= goroutines+slack && d <= descriptors+slack
	})
}
