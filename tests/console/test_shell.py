"""The shell around every page: without JavaScript, help and settings, pages that do not exist."""

from playwright.async_api import expect

from tests.support.console import accessibility_faults, opened


async def test_without_javascript_the_shell_says_so(service, browser):
    started = await service(run=["api"])
    async with opened(browser, started.url, "/ui/imports", java_script_enabled=False) as page:
        await expect(page.get_by_role("heading", name="This page needs JavaScript")).to_be_visible()
        await expect(page.locator("code").last).to_have_text("api/README.md")


async def test_help_settings_and_shortcuts(service, browser):
    """The help lists the shortcuts, which can be switched off. The browser keeps the theme. Focus returns after a dialog."""
    started = await service(run=["api"])
    async with opened(browser, started.url, "/ui/exports", color_scheme="light") as page:
        await expect(page.get_by_role("heading", name="No exports yet")).to_be_visible()
        button = page.get_by_role("button", name="Settings and shortcuts")
        await button.click()
        dialog = page.get_by_role("dialog", name="Settings and shortcuts")
        await expect(dialog.get_by_role("row", name="n New import")).to_be_visible()
        assert await accessibility_faults(page) == []
        await dialog.get_by_label("Theme").select_option("dark")
        await dialog.get_by_label("Keyboard shortcuts", exact=True).uncheck()
        await page.keyboard.press("Escape")
        await expect(dialog).to_be_hidden()
        await expect(button).to_be_focused()
        await page.reload()
        await expect(page.locator("html")).to_have_attribute("data-theme", "dark")
        await expect(page.get_by_role("heading", name="No exports yet")).to_be_visible()
        await page.keyboard.press("i")
        await button.click()
        await dialog.get_by_label("Keyboard shortcuts", exact=True).check()
        await page.keyboard.press("Escape")
        assert page.url.endswith("/ui/exports")
        await page.keyboard.press("i")
        await expect(page.get_by_role("heading", name="Imports", exact=True)).to_be_visible()


async def test_back_and_forward_show_the_pages_again(service, browser):
    started = await service(run=["api"])
    async with opened(browser, started.url, "/ui/resources") as page:
        await page.get_by_role("link", name="articles").click()
        await expect(page.get_by_role("heading", name="articles", level=1)).to_be_focused()
        await page.go_back()
        await expect(page.get_by_role("heading", name="Resources", level=1)).to_be_visible()
        await page.go_forward()
        await expect(page.get_by_role("heading", name="articles", level=1)).to_be_visible()
