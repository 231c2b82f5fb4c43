package queue

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/weir-run/weir/function"
)

// maxCallbackURL bounds an X-Callback-Url: what servers commonly take at least.
const maxCallbackURL = 2048

// The paths under which weir itself takes callbacks, as its gateway has them.
const (
	ownCallPath  = "/function/"
	ownAsyncPath = "/async-function/"
)

// receiver is where a callback goes: to url, or, if it is weir itself, to the
// function ref.
type receiver struct {
	url *url.URL
	// key is host:port, or the function's name: by it receivers are told apart.
	key string
	own bool
	// async is whether the path asked for an asynchronous call. It decides
	// whether an X-Callback-Url counts.
	async bool
	ref   function.Ref
	// path is what the function is to see.
	path string
}

// parse says where a callback is to go. The error says what is wrong with text
// and what to do; it does not repeat text.
func (c *callbacks) parse(text string) (*receiver, error) {
	u, err := parseCallback(text)
	if err != nil {
		return nil, err
	}
	r := &receiver{url: u, key: net.JoinHostPort(canonicalHost(u.Hostname()), portOf(u))}
	if c.own[canonicalHost(u.Hostname())] || c.own[r.key] {
		return r, r.parseOwn(c.cfg.Namespace)
	}
	return r, nil
}

// check is parse for who submits a call: addresses that stand in the URL are
// looked at too. Names are looked up when the callback is sent.
func (c *callbacks) check(text string) error {
	r, err := c.parse(text)
	if err != nil {
		return err
	}
	host := canonicalHost(r.url.Hostname())
	if r.own || c.guard.allowsHost(host) {
		return nil
	}
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return refusal(host, "is loopback")
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return c.guard.check(addr)
	}
	return nil
}

func parseCallback(text string) (*url.URL, error) {
	if len(text) > maxCallbackURL {
		return nil, fmt.Errorf("the URL is %d bytes long, expected at most %d", len(text), maxCallbackURL)
	}
	for i := range len(text) {
		if text[i] <= ' ' || text[i] >= 0x7f {
			return nil, errors.New("the URL has a space, a control character or one that is not ASCII; percent-encode it")
		}
	}
	u, err := url.Parse(text)
	if err != nil {
		var parsing *url.Error
		if errors.As(err, &parsing) {
			err = parsing.Err
		}
		return nil, fmt.Errorf("the URL cannot be read: %w", err)
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, errors.New("expected a URL that begins with http:// or https://")
	case u.User != nil:
		return nil, errors.New("the URL has a user or password, which the state of the call would show; let the path, the query or the function's own Authorization header carry a secret")
	case u.Hostname() == "":
		return nil, errors.New("the URL has no host")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return nil, fmt.Errorf("the URL's port is %s, expected 1 to 65535", port)
		}
	}
	if err := checkHost(canonicalHost(u.Hostname())); err != nil {
		return nil, err
	}
	return u, nil
}

// canonicalHost is a host without its root dot, in lower case, and an address
// in its one form.
func canonicalHost(host string) string {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Unmap().String()
	}
	return host
}

// checkHost takes addresses, and names that no resolver reads as an address:
// 127.1, 0x7f.1 and 2130706433 are names of loopback to some.
func checkHost(host string) error {
	if addr, err := netip.ParseAddr(host); err == nil {
		if addr.Zone() != "" {
			return errors.New("the URL's address has a zone, which is of this host only")
		}
		return nil
	}
	if len(host) > 253 {
		return errors.New("the URL's host is longer than a name can be")
	}
	labels := strings.Split(host, ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 || strings.Trim(strings.ToLower(label), "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return fmt.Errorf("the URL's host %q is no name; write one that is not ASCII in its xn-- form", host)
		}
	}
	if last := strings.ToLower(labels[len(labels)-1]); strings.Trim(last, "0123456789") == "" || strings.HasPrefix(last, "0x") {
		return fmt.Errorf("the URL's host %q is no address; write it as in 192.0.2.1", host)
	}
	return nil
}

func portOf(u *url.URL) string {
	switch {
	case u.Port() != "":
		return strings.TrimLeft(u.Port(), "0")
	case u.Scheme == "https":
		return "443"
	}
	return "80"
}

// parseOwn reads the path of a callback to weir itself.
func (r *receiver) parseOwn(namespace string) error {
	target := r.url.RequestURI()
	rest, ok := strings.CutPrefix(target, ownAsyncPath)
	if r.async = ok; !ok {
		rest, ok = strings.CutPrefix(target, ownCallPath)
	}
	if !ok {
		return fmt.Errorf("the URL is weir's own, which takes callbacks under %sNAME and %sNAME only", ownCallPath, ownAsyncPath)
	}
	end := strings.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	name, path := rest[:end], rest[end:]
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	ref, err := function.ParseRef(name, namespace)
	if err != nil {
		return err
	}
	r.own, r.ref, r.path, r.key = true, ref, path, ref.String()
	return nil
}

// ownHosts reads hosts, with a port or without.
func ownHosts(texts []string) (map[string]bool, error) {
	own := map[string]bool{}
	for _, text := range texts {
		host, port := text, ""
		if h, p, err := net.SplitHostPort(text); err == nil {
			host, port = h, p
		}
		host = canonicalHost(strings.Trim(host, "[]"))
		if err := checkHost(host); err != nil {
			return nil, fmt.Errorf("weir's own host %q: expected HOST or HOST:PORT", text)
		}
		if port == "" {
			own[host] = true
			continue
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return nil, fmt.Errorf("weir's own host %q: expected HOST or HOST:PORT, the port from 1 to 65535", text)
		}
		own[net.JoinHostPort(host, port)] = true
	}
	return own, nil
}
