package fork

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// The variables of a request are Http_ and the header's name in canonical
// case, "-" as "_", with its first value, and these, which no header can set.
const (
	prefix           = "Http_"
	method           = prefix + "Method"
	query            = prefix + "Query"
	path             = prefix + "Path"
	transferEncoding = prefix + "Transfer_Encoding"
	// Of classic mode.
	contentLength    = prefix + "Content_Length"
	contentLengthOld = prefix + "ContentLength"
	host             = prefix + "Host"
	// proxy is never set: clients of HTTP in many languages send their calls
	// to where http_proxy in the environment says (httpoxy, CVE-2016-5385).
	proxy = prefix + "Proxy"
)

// splitEnviron parts what a request can replace from what it cannot.
func splitEnviron(environ []string) (base, own []string) {
	for _, kv := range environ {
		if strings.HasPrefix(kv, prefix) {
			own = append(own, kv)
		} else {
			base = append(base, kv)
		}
	}
	return base, own
}

// environ is the environment of the process of r.
func (h *Handler) environ(r *http.Request) []string {
	if !h.CGIHeaders {
		return h.Environ
	}
	env := make([]string, len(h.base), len(h.base)+len(h.own)+len(r.Header)+8)
	copy(env, h.base)
	env = h.appendRequest(env, r)
	for _, kv := range h.own {
		name, _, _ := strings.Cut(kv, "=")
		if !has(env[len(h.base):], name) {
			env = append(env, kv)
		}
	}
	return env
}

func (h *Handler) appendRequest(env []string, r *http.Request) []string {
	env = appendVariable(env, method, r.Method)
	if r.URL.RawQuery != "" {
		env = appendVariable(env, query, r.URL.RawQuery)
	}
	if r.URL.Path != "" {
		env = appendVariable(env, path, r.URL.Path)
	}
	if len(r.TransferEncoding) > 0 {
		env = appendVariable(env, transferEncoding, r.TransferEncoding[0])
	}
	if h.Mode == Classic {
		length := strconv.FormatInt(r.ContentLength, 10)
		env = append(env, contentLengthOld+"="+length, contentLength+"="+length)
		if r.Host != "" {
			env = appendVariable(env, host, r.Host)
		}
	}
	return h.appendHeaders(env, r.Header)
}

// appendHeaders goes by sorted names, so that of two that make one variable it
// is always the one with "-" and not the one with "_" that counts.
func (h *Handler) appendHeaders(env []string, header http.Header) []string {
	var room [32]string
	names := room[:0]
	for name := range header {
		names = append(names, name)
	}
	slices.Sort(names)
	first := len(env)
	for _, field := range names {
		values := header[field]
		if len(values) == 0 || strings.ContainsAny(field, "=\x00") {
			continue
		}
		name := prefix + strings.ReplaceAll(field, "-", "_")
		if h.reserved(name) || strings.Contains(field, "_") && has(env[first:], name) {
			continue
		}
		env = appendVariable(env, name, values[0])
	}
	return env
}

// reserved says whether a header may not make this variable, in whatever case.
func (h *Handler) reserved(name string) bool {
	for _, r := range [...]string{proxy, method, query, path, transferEncoding} {
		if strings.EqualFold(name, r) {
			return true
		}
	}
	if h.Mode != Classic {
		return false
	}
	return strings.EqualFold(name, contentLength) || strings.EqualFold(name, contentLengthOld) || strings.EqualFold(name, host)
}

// appendVariable keeps a NUL, which no variable can hold and a decoded path
// may, in the form in which it was sent: cut off there, the path would be
// another one.
func appendVariable(env []string, name, value string) []string {
	if strings.IndexByte(value, 0) >= 0 {
		value = strings.ReplaceAll(value, "\x00", "%00")
	}
	return append(env, name+"="+value)
}

func has(env []string, name string) bool {
	for _, kv := range env {
		if len(kv) > len(name) && kv[len(name)] == '=' && kv[:len(name)] == name {
			return true
		}
	}
	return false
}
