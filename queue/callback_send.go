package queue

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/weir-run/weir/contract"
)

// Headers that a callback carries beside the function's own. Those of OpenFaaS
// come first.
const (
	headerStatus    = "X-Function-Status"
	headerName      = "X-Function-Name"
	headerNamespace = "X-Function-Namespace"
	// headerRetry is how often the call was tried again, headerRetryMax how
	// often it might be tried in all.
	headerRetry    = "X-Retry"
	headerRetryMax = "X-Retry-Max"
	// headerState and headerReason are what the call ended with.
	headerState  = "X-Weir-State"
	headerReason = "X-Weir-Reason"
	// headerCut says that the answer's body or header is not all there, and
	// headerBodySize how long the whole body was.
	headerCut      = "X-Weir-Cut"
	headerBodySize = "X-Weir-Body-Size"
	// headerDepth counts callbacks that led to one another. A call that comes
	// with it counts on from there.
	headerDepth = "X-Weir-Callbacks"
	// headerCallback is where the answer to an asynchronous call goes.
	headerCallback = "X-Callback-Url"
)

// What a receiver may answer. Nothing of it is used but the status and
// Retry-After; the body is read so far that the connection can be used again.
const (
	maxAnswerHeader = 64 << 10
	maxAnswerBody   = 64 << 10
)

// idleConnections are kept to all receivers together, each for idleTime:
// shorter than servers commonly keep theirs.
const (
	idleConnections = 256
	idleTime        = 30 * time.Second
)

// transport is HTTP/1.1 to the addresses that guard allows, and to those of
// the URL: no proxy of the environment, and no redirect is followed.
func (c *callbacks) transport() *http.Transport {
	return &http.Transport{
		DialContext:            c.dial,
		TLSClientConfig:        &tls.Config{RootCAs: c.cfg.RootCAs, MinVersion: tls.VersionTLS12},
		TLSNextProto:           map[string]func(string, *tls.Conn) http.RoundTripper{},
		TLSHandshakeTimeout:    c.cfg.Timeout,
		MaxResponseHeaderBytes: maxAnswerHeader,
		MaxIdleConns:           idleConnections,
		MaxIdleConnsPerHost:    callbacksAtReceiver,
		IdleConnTimeout:        idleTime,
		DisableCompression:     true,
	}
}

// dial looks at the address that is connected to, after the name was resolved:
// a name that changes its address between two looks gains nothing.
func (c *callbacks) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	d := net.Dialer{Resolver: c.cfg.Resolver, Timeout: c.cfg.Timeout}
	if c.guard.allowsHost(host) {
		return d.DialContext(ctx, network, address)
	}
	looked := make(chan error, maxAddresses)
	d.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error {
		addr, err := netip.ParseAddrPort(address)
		if err == nil {
			err = c.guard.check(addr.Addr())
		}
		select {
		case looked <- err:
		default:
		}
		return err
	}
	conn, err := d.DialContext(ctx, network, address)
	if err == nil {
		return conn, nil
	}
	return nil, verdict(looked, err)
}

// maxAddresses is of how many addresses of one name the guard's word counts.
const maxAddresses = 64

// verdict is a refusal only if every address was refused: one that was not
// may answer the next time.
func verdict(looked <-chan error, err error) error {
	var refused error
	for {
		select {
		case l := <-looked:
			if l == nil || !errors.Is(l, errRefused) {
				if errors.Is(err, errRefused) {
					return errors.New("no connection to the addresses that may be dialled")
				}
				return err
			}
			refused = l
		default:
			if refused != nil {
				return refused
			}
			return err
		}
	}
}

// post sends the callback once. The status is the receiver's.
func (c *callbacks) post(ctx context.Context, to *receiver, r *reply) (int, http.Header, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to.url.String(), bytes.NewReader(r.Body))
	if err != nil {
		return 0, nil, err
	}
	req.Header = r.header()
	if req.Header.Get("User-Agent") == "" {
		req.Header.Set("User-Agent", "weir")
	}
	resp, err := c.send.RoundTrip(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, maxAnswerBody) // the status has said it all
	return resp.StatusCode, resp.Header, nil
}

// header is that of the callback's request.
func (r *reply) header() http.Header {
	h := make(http.Header, len(r.Header)+12)
	for name, values := range r.Header {
		if !token(name) || ofConnection(name) || strings.HasPrefix(http.CanonicalHeaderKey(name), "X-Weir-") {
			continue
		}
		for _, value := range values {
			if printable(value) {
				h[name] = append(h[name], value)
			}
		}
	}
	for _, name := range []string{headerRetry, headerRetryMax} {
		h.Del(name)
	}
	h.Set(contract.HeaderCallID, r.CallID)
	h.Set(contract.HeaderDuration, fmt.Sprintf("%f", r.Took.Seconds()))
	h.Set(headerStatus, strconv.Itoa(r.Status))
	h.Set(headerName, r.Function.Name)
	h.Set(headerNamespace, r.Function.Namespace)
	h.Set(headerRetry, strconv.Itoa(max(r.Attempts-1, 0)))
	h.Set(headerRetryMax, strconv.Itoa(r.MaxAttempts))
	h.Set(headerState, string(r.State))
	if reason := strings.Map(spaceControl, r.Reason); reason != "" {
		h.Set(headerReason, reason)
	}
	if r.Size > int64(len(r.Body)) {
		h.Add(headerCut, "body")
		h.Set(headerBodySize, strconv.FormatInt(r.Size, 10))
	}
	if r.HeaderCut {
		h.Add(headerCut, "header")
	}
	h.Set(headerDepth, strconv.Itoa(r.Depth))
	return h
}

// depthOf is how many callbacks led to a call. What is no number counts for
// nothing.
func depthOf(h http.Header) int {
	n, err := strconv.ParseUint(h.Get(headerDepth), 10, 31)
	if err != nil {
		return 0
	}
	return int(n)
}

// message is the callback as a call of weir's own function.
func (r *reply) message(to *receiver, now time.Time) *Message {
	m := &Message{
		Function: to.ref, Method: http.MethodPost, Path: to.path, Host: to.url.Host,
		Header: r.header(), Body: r.Body, CallID: r.CallID, Accepted: now,
	}
	if to.async {
		m.Callback = m.Header.Get(headerCallback)
	}
	return m
}

// explain is an error of sending in short, without the URL, whose query may
// be secret.
func explain(err error) string {
	var about *url.Error
	if errors.As(err, &about) {
		err = about.Err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "no answer in time"
	}
	return short(err.Error())
}

// maxReason bounds a text of others that becomes part of a call's state.
const maxReason = 256

func short(text string) string {
	text = strings.ToValidUTF8(strings.Map(spaceControl, text), "�")
	if len(text) > maxReason {
		text = strings.ToValidUTF8(text[:maxReason], "") + "…"
	}
	return text
}

func spaceControl(c rune) rune {
	if c < ' ' || c == 0x7f {
		return ' '
	}
	return c
}

func printable(value string) bool {
	for i := range len(value) {
		if c := value[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// token says whether name can be that of a header (RFC 9110).
func token(name string) bool {
	for i := range len(name) {
		c := name[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return name != ""
}
