package main_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	weir "github.com/weir-run/weir/cmd/weir"
	"github.com/weir-run/weir/test/programtest"
)

// handlerMark in the environment makes the test binary a function's handler.
const handlerMark = "WEIR_TEST_HANDLER"

func TestMain(m *testing.M) {
	if os.Getenv(handlerMark) != "" {
		handle()
	}
	// Its keeper has an environment of its own.
	if os.Getenv(strikeMark) != "" || len(os.Args) == 3 && os.Args[1] == "keep" {
		weir.Main(between)
		os.Exit(0)
	}
	os.Exit(programtest.Run(m))
}

// program is a weir that is called.
type program struct {
	*programtest.Weir
	t testing.TB
}

// command is a weir that was not started yet.
func command(t testing.TB, env ...string) *program {
	t.Helper()
	return &program{programtest.NewWeir(t, env...), t}
}

// local starts weir with a stack, and waits until it knows its functions.
func local(t testing.TB, stack string, env ...string) *program {
	t.Helper()
	p := &program{programtest.NewLocalWeir(t, stack, env...), t}
	p.Launch().Ready()
	return p
}

// answer is one that was read to its end.
type answer struct {
	*http.Response
	text string
}

// client keeps no connection: weir's own tests count them.
var client = &http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{Timeout: programtest.Patience}).DialContext},
	Timeout:       programtest.Patience,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// do sends a request; headers are "Name: value".
func (p *program) do(method, path string, body io.Reader, headers ...string) (answer, error) {
	return p.doBy(client, method, path, body, headers...)
}

// doBy is do by another client.
func (p *program) doBy(client *http.Client, method, path string, body io.Reader, headers ...string) (answer, error) {
	r, err := http.NewRequestWithContext(context.Background(), method, p.URL+path, body)
	if err != nil {
		return answer{}, err
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		if name == "Host" {
			r.Host = value
			continue
		}
		r.Header.Set(name, value)
	}
	response, err := client.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	return answer{response, string(text)}, err
}

func (p *program) get(path string, headers ...string) answer {
	p.t.Helper()
	a, err := p.do(http.MethodGet, path, nil, headers...)
	if err != nil {
		p.t.Fatal(err)
	}
	return a
}

// check is about the status of an answer, and what its text has.
func (a answer) check(t testing.TB, status int, words ...string) {
	t.Helper()
	if a.Response == nil {
		t.Fatal("no answer")
	}
	if a.StatusCode != status {
		t.Errorf("%s: %s %q, want %d", a.Request.URL, a.Status, a.text, status)
	}
	for _, word := range words {
		if !strings.Contains(a.text, word) {
			t.Errorf("%s: %q, want %q in it", a.Request.URL, a.text, word)
		}
	}
}

// raw sends bytes over a connection of their own and returns all that comes
// back; half closes the sending side first.
func (p *program) raw(half bool, text string) string {
	p.t.Helper()
	c, err := net.Dial("tcp", p.Addr)
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(programtest.Patience))
	if _, err := io.WriteString(c, text); err != nil {
		p.t.Fatal(err)
	}
	if half {
		_ = c.(*net.TCPConn).CloseWrite()
	}
	back, err := io.ReadAll(c)
	if err != nil && !strings.Contains(err.Error(), "reset") {
		p.t.Errorf("%.80q: %v", text, err)
	}
	return string(back)
}

// metric is the value of a series as the metrics page spells it, 0 without.
func (p *program) metric(series string) float64 {
	p.t.Helper()
	response, err := client.Get(p.MetricsURL)
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, series+" "); ok {
			value, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				p.t.Fatal(err)
			}
			return value
		}
	}
	return 0
}
