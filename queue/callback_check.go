package queue

// CheckCallback says what is wrong with an X-Callback-Url, and what would be
// right. What its host's name stands for is looked at when it is called.
func (q *Queue) CheckCallback(url string) error { return q.callbacks.check(url) }

// CheckAllow says what is wrong with a CallbackConfig's Allow, if anything.
func CheckAllow(allow []string) error {
	_, err := newAddressGuard(allow)
	return err
}

// CheckOwn says what is wrong with a CallbackConfig's Own, if anything.
func CheckOwn(own []string) error {
	_, err := ownHosts(own)
	return err
}
